"""The pure core: whatever the scheduling, the answer is the same and nothing is left behind."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymotor.engines.sim import model
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import CoreOptions
from pymotor.engines.sim.handoffs import KVSource
from pymotor.engines.sim.requests import EngineDeadError, MediaItem, Output, Request, Sampling, Status
from pymotor.engines.sim.times import Profile

ROOMY = CoreOptions(num_blocks=4096, block_size=16, prefix_caching=False)


class MemoryStore:
    def __init__(self) -> None:
        self.entries: dict[str, model.Words] = {}

    def load(self, identifier: str) -> model.Words | None:
        return self.entries.get(identifier)

    def save(self, identifier: str, embedding: model.Words) -> None:
        self.entries[identifier] = embedding


def engine(options: CoreOptions, **stores: object) -> EngineCore:
    return EngineCore(options, Profile(), **stores)  # type: ignore[arg-type]


def item(seed: int, offset: int, tokens: int) -> MediaItem:
    digest = bytes([seed]) * 32
    return MediaItem(f"item-{seed}", "image", offset, tokens, {"image_grid_thw": [1, 2, 2 * tokens]}, digest)


def request(name: str, tokens: list[int], media: tuple[MediaItem, ...] = (), **sampling: object) -> Request:
    defaults: dict[str, object] = {"max_tokens": 12}
    return Request(name, np.array(tokens, dtype=np.uint64), Sampling(**(defaults | sampling)), media)  # type: ignore[arg-type]


def run(core: EngineCore, requests: list[Request], limit: int = 20_000) -> dict[str, list[Output]]:
    for each in requests:
        core.add(each)
    ends: dict[str, list[Output]] = defaultdict(list)
    for _ in range(limit):
        if not core.has_work:
            return ends
        for output in core.step(0.0).outputs:
            ends[output.request.id].append(output)
    raise AssertionError("the core does not come to an end")


def answer(tokens: list[int], media: tuple[MediaItem, ...] = (), **sampling: object) -> list[int]:
    """The reference: alone, roomy, without any cache."""
    alone = request("reference", tokens, media, **sampling)
    run(engine(ROOMY), [alone])
    return alone.output


prompts = st.lists(st.integers(0, 255), min_size=1, max_size=70)


@st.composite
def workloads(draw: st.DrawFn) -> list[tuple[list[int], tuple[MediaItem, ...]]]:
    """Prompts with shared beginnings and shared media."""
    beginning = draw(st.lists(st.integers(0, 3), max_size=50))
    loads = []
    for _ in range(draw(st.integers(1, 8))):
        tokens = list(beginning[: draw(st.integers(0, len(beginning)))])
        media = []
        for _ in range(draw(st.integers(0, 2))):
            seed = draw(st.integers(1, 3))
            media.append(item(seed, len(tokens), 5 * seed))
            tokens += [261] * (5 * seed)
        tokens += draw(st.lists(st.integers(0, 3), min_size=1, max_size=20))
        loads.append((tokens, tuple(media)))
    return loads


options = st.builds(
    CoreOptions,
    num_blocks=st.integers(14, 60),
    block_size=st.sampled_from([8, 16]),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.sampled_from([16, 33, 64, 8192]),
    max_model_len=st.just(112),
    prefix_caching=st.booleans(),
)


@settings(max_examples=150)
@given(workloads(), options)
def test_scheduling_never_changes_an_answer_and_leaves_nothing(
    loads: list[tuple[list[int], tuple[MediaItem, ...]]], tight: CoreOptions
) -> None:
    core = engine(tight)
    requests = [request(str(index), tokens, media) for index, (tokens, media) in enumerate(loads)]
    run(core, requests)
    for each, (tokens, media) in zip(requests, loads, strict=True):
        assert each.output == answer(tokens, media)
    core.pool.check()
    assert core.idle


def test_preemption_happens_and_changes_nothing() -> None:
    core = engine(CoreOptions(num_blocks=8, block_size=8, max_model_len=64, prefix_caching=False))
    requests = [request(str(seed), [seed] * 20, max_tokens=30, ignore_eos=True) for seed in range(3)]
    run(core, requests)
    assert core.counters.preemptions > 0
    for seed, each in enumerate(requests):
        assert each.output == answer([seed] * 20, max_tokens=30, ignore_eos=True)


@settings(max_examples=60)
@given(workloads(), options, st.randoms(use_true_random=False))
def test_aborting_at_any_moment_leaves_nothing(
    loads: list[tuple[list[int], tuple[MediaItem, ...]]], tight: CoreOptions, chance: random.Random
) -> None:
    core = engine(tight)
    requests = [request(str(index), tokens, media) for index, (tokens, media) in enumerate(loads)]
    for each in requests:
        core.add(each)
    for _ in range(2_000):
        if not core.has_work:
            break
        if chance.random() < 0.3:
            core.abort(chance.choice(requests))
        core.step(0.0)
        core.pool.check()
    assert core.idle
    assert all(each.status is Status.FINISHED for each in requests)


@given(prompts, st.integers(0, 69), st.integers(0, 255))
def test_each_token_of_a_prompt_matters(tokens: list[int], position: int, other: int) -> None:
    changed = list(tokens)
    changed[position % len(tokens)] = other
    same = changed == tokens
    assert (answer(tokens, ignore_eos=True) == answer(changed, ignore_eos=True)) == same


@given(prompts, st.integers(1, 12))
def test_decode_by_single_steps_is_prefill_of_the_whole(tokens: list[int], split: int) -> None:
    words = np.array(tokens, dtype=np.uint64)
    whole = model.prefill(0, words, 0)
    state, readout = 0, 0
    for position, token in enumerate(tokens):
        state = model.decode(state, token, position)
        readout = model.add(readout, model.attend_one(state, position))
        assert state == int(whole[position])
    assert readout == model.attend(whole, 0)
    first = whole[: min(split, len(whole))]
    rest = model.attend(whole[len(first) :], len(first))
    assert model.add(model.attend(first, 0), rest) == readout


def hand_over(tokens: list[int], producer: EngineCore, consumer: EngineCore) -> tuple[Request, list[int]]:
    """Prefill on one core; returns a request that waits for its KV on the other, and the blocks."""
    first = request("p", tokens, max_tokens=1, min_tokens=1)
    first.kv_transfer_params = {"do_remote_decode": True}
    params = run(producer, [first])["p"][-1].kv_transfer_params
    assert params is not None
    second = request("d", tokens, ignore_eos=True)
    second.kv_transfer_params = params
    consumer.add(second)
    (pull,) = consumer.step(0.0).awaited
    assert isinstance(pull.source, KVSource)
    assert pull.source.request_id == "p"
    return second, list(pull.source.blocks)


PRODUCER = replace(ROOMY, side_channel=("host", 1), engine_id="p", num_blocks=64)


@settings(max_examples=60)
@given(prompts, st.integers(0, 1_000), st.integers(0, 63))
def test_decode_depends_on_every_word_it_was_given_and_on_nothing_else(
    tokens: list[int], position: int, bit: int
) -> None:
    producer, consumer = engine(PRODUCER), engine(ROOMY)
    waiting, blocks = hand_over(tokens, producer, consumer)
    states = producer.read_blocks(tuple(blocks)).copy()
    states[position % len(tokens)] ^= np.uint64(1 << bit)
    assert consumer.receive_kv(waiting, states) is None
    run(consumer, [])
    assert waiting.output != answer(tokens, ignore_eos=True)

    waiting, blocks = hand_over(tokens, producer, engine(ROOMY))
    consumer = engine(ROOMY)
    stranger = request("d", [7] * len(tokens), ignore_eos=True)
    stranger.kv_transfer_params = waiting.kv_transfer_params
    consumer.add(stranger)
    consumer.step(0.0)
    consumer.receive_kv(stranger, producer.read_blocks(tuple(blocks)))
    run(consumer, [])
    assert stranger.output == answer(tokens, ignore_eos=True)


def test_too_few_blocks_are_an_error_of_this_request_only() -> None:
    producer, consumer = engine(PRODUCER), engine(ROOMY)
    waiting, blocks = hand_over([1] * 40, producer, consumer)
    end = consumer.receive_kv(waiting, producer.read_blocks(tuple(blocks[:-1])))
    assert end is not None
    assert end.finish_reason == "error"
    assert consumer.idle


def test_a_lease_keeps_blocks_until_it_ends_and_a_late_reader_sees_the_next_owner() -> None:
    producer = engine(replace(PRODUCER, num_blocks=6, max_model_len=64, kv_lease_seconds=30.0))
    first = request("p", [1] * 40, max_tokens=1)
    first.kv_transfer_params = {"do_remote_decode": True}
    run(producer, [first])
    blocks = producer.leases["p"].blocks
    right = producer.read_blocks(blocks).copy()

    later = request("later", [2] * 60, max_tokens=2)
    producer.add(later)
    assert not producer.step(29.0).progress, "the lease's blocks were given away"
    assert (producer.read_blocks(blocks) == right).all()
    while producer.has_work:
        producer.step(30.0)
    assert not producer.leases
    assert (producer.read_blocks(blocks) != right).any()
    assert producer.idle


def test_a_fetched_lease_is_over_at_once_and_ending_it_twice_is_harmless() -> None:
    producer, consumer = engine(PRODUCER), engine(ROOMY)
    hand_over([1] * 40, producer, consumer)
    producer.leases.end("p")
    producer.leases.end("p")
    assert producer.idle


def test_an_encoder_leaves_embeddings_and_no_blocks() -> None:
    store = MemoryStore()
    encoder = engine(replace(ROOMY, encode_only=True), embeddings=store, produces_embeddings=True)
    media = (item(1, 2, 5), item(2, 7, 10), item(1, 17, 5))
    ends = run(encoder, [request("e", [9] * 22, media)])["e"]
    assert [(end.token, end.finish_reason) for end in ends] == [(None, "stop")]
    assert ends[0].ec_transfer_params == {
        "item-1": {"item_indices": [0, 2], "metadata": media[0].metadata},
        "item-2": {"item_indices": [1], "metadata": media[1].metadata},
    }
    assert set(store.entries) == {"item-1", "item-2"}
    assert encoder.idle


def test_an_encoder_with_a_small_cache_encodes_more_than_fits() -> None:
    store = MemoryStore()
    small = replace(ROOMY, encode_only=True, max_num_batched_tokens=8)
    encoder = engine(small, embeddings=store, produces_embeddings=True)
    run(encoder, [request("e", [9] * 40, (item(1, 0, 5), item(2, 5, 10), item(3, 15, 15)))])
    assert len(store.entries) == 3
    assert encoder.encoder_cache.used_tokens <= 15
    assert encoder.idle


def test_a_consumer_answers_from_the_store_not_from_the_media() -> None:
    store = MemoryStore()
    media = item(1, 0, 5)
    without = replace(media, content_digest=None)
    tokens = [261] * 5 + [3] * 9
    store.entries[media.identifier] = model.embed(bytes([1]) * 32, 5)
    for given_item in (media, without):
        consumer = engine(ROOMY, embeddings=store, consumes_embeddings=True)
        asked = request("u", tokens, (given_item,))
        run(consumer, [asked])
        assert asked.output == answer(tokens, (media,))
    store.entries[media.identifier] = model.embed(bytes([2]) * 32, 5)
    consumer = engine(ROOMY, embeddings=store, consumes_embeddings=True)
    asked = request("u", tokens, (media,))
    run(consumer, [asked])
    assert asked.output != answer(tokens, (media,))


def test_metadata_without_an_embedding_kills_the_core() -> None:
    core = engine(ROOMY, embeddings=MemoryStore(), consumes_embeddings=True)
    core.add(request("u", [261] * 5 + [3], (replace(item(1, 0, 5), content_digest=None),)))
    with pytest.raises(EngineDeadError):
        core.step(0.0)


def test_preempting_pulled_kv_kills_the_core_with_media_and_recomputes_without() -> None:
    for media, dies in (((), False), ((item(1, 0, 5),), True)):
        tokens = [261] * 5 + [3] * 20
        producer, consumer = engine(PRODUCER), engine(ROOMY)
        waiting, blocks = hand_over(tokens, producer, consumer)
        waiting.media = media
        consumer.receive_kv(waiting, producer.read_blocks(tuple(blocks)))
        consumer.step(0.0)
        if dies:
            with pytest.raises(EngineDeadError):
                consumer.preempt_youngest()
        else:
            consumer.preempt_youngest()
            run(consumer, [])
            assert waiting.output == answer(tokens, ignore_eos=True)


def test_stops() -> None:
    long = answer([5] * 30, max_tokens=80, ignore_eos=True)
    assert len(long) == 80
    characters = "".join(map(chr, long))
    wanted = request("s", [5] * 30, max_tokens=80, ignore_eos=True, stop=(characters[10:12],))
    end = run(engine(ROOMY), [wanted])["s"][-1]
    place = characters.index(characters[10:12])
    assert (end.finish_reason, end.stop_reason) == ("stop", characters[10:12])
    assert wanted.text == characters[:place]
    by_id = request("i", [5] * 30, max_tokens=80, ignore_eos=True, stop_token_ids=(long[3],))
    end = run(engine(ROOMY), [by_id])["i"][-1]
    assert (end.finish_reason, end.stop_reason) == ("stop", long[3])
    ended = [answer([seed] * 9, max_tokens=400) for seed in range(10)]
    assert any(tokens[-1] == 258 and len(tokens) < 400 for tokens in ended)
    assert all(len(answer([seed] * 9, max_tokens=400, min_tokens=300)) >= 300 for seed in range(10))
