"""Stages in processes of their own: the answer is that of one union engine exactly when the handoff was right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_legs import (
    REMOTE_DECODE,
    Engine,
    Engines,
    chat_body,
    ec_flags,
    embeds,
    eventually,
    image,
    nixl_flags,
    prefill,
    store_flags,
    text,
)


class Fleet(NamedTuple):
    encode: Engine
    prefill: Engine
    decode: Engine
    union: Engine
    """Reads embeddings from the store."""
    plain: Engine
    """The reference: no connectors at all."""


@pytest.fixture(scope="module")
def fleet(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    store = tmp_path_factory.mktemp("ec")
    return Fleet(
        engines.start(*ec_flags("ec_producer", store)),
        engines.start(*ec_flags("ec_consumer", store), *nixl_flags("kv_producer", kv_lease_duration=5)),
        engines.start(*nixl_flags("kv_consumer"), "--no-enable-prefix-caching"),
        engines.start(*ec_flags("ec_consumer", store)),
        engines.start(),
    )


@pytest.fixture(scope="module")
def hasty(engines: Engines) -> Engine:
    """A decode engine that does not wait long for a producer."""
    return engines.start(*nixl_flags("kv_consumer"), "--sim-speed", "0.01")


def without_media(fleet: Fleet, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each item encoded by a leg of its own and replaced by its metadata."""
    parts = []
    for part in content:
        if part["type"] == "image_url":
            encoded = fleet.encode.chat([part])
            assert encoded.status_code == 200, encoded.text
            parts += embeds(encoded)
        else:
            parts.append(part)
    return parts


def through_all(fleet: Fleet, content: list[dict[str, Any]], **fields: Any) -> list[int]:
    parts = without_media(fleet, content)
    return fleet.decode.tokens(parts, kv_transfer_params=prefill(fleet.prefill, parts), **fields)


contents = st.lists(
    st.one_of(
        st.text(max_size=60).map(text),
        st.tuples(st.integers(0, 255), st.integers(1, 300), st.integers(1, 300)).map(lambda size: image(*size)),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents)
def test_encode_prefill_decode_answers_as_one_engine(fleet: Fleet, content: list[dict[str, Any]]) -> None:
    expected = fleet.plain.tokens(content)
    assert through_all(fleet, content) == expected
    assert fleet.union.tokens(without_media(fleet, content)) == expected


def test_at_concurrency_and_then_nothing_is_held(fleet: Fleet) -> None:
    loads = [[text(f"request {number % 7}"), image(number % 5)] for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda content: through_all(fleet, content), loads))
    assert answers == [fleet.plain.tokens(content) for content in loads]
    for engine in fleet:
        eventually(lambda engine=engine: idle(engine))  # type: ignore[misc]


def idle(engine: Engine) -> bool:
    state = engine.state()
    held = ("running", "waiting", "waiting_for_kv", "transfers", "blocks_used", "leases", "embeddings_held")
    return not any(state[name] for name in held)


def test_different_images_have_different_answers(fleet: Fleet) -> None:
    answers = [through_all(fleet, [text("what is this?"), image(seed)]) for seed in range(6)]
    assert len({tuple(answer) for answer in answers}) == 6


def test_the_encoder_answers_without_tokens_and_with_metadata(fleet: Fleet) -> None:
    reply = fleet.encode.chat([text("what?"), image(1), image(2), image(1)]).json()
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["choices"][0]["message"]["content"] == ""
    assert reply["usage"]["completion_tokens"] == 0
    items = reply["ec_transfer_params"]
    assert sorted(item["item_indices"] for item in items.values()) == [[0, 2], [1]]
    assert all(item["metadata"] == {"image_grid_thw": [1, 4, 6]} for item in items.values())
    assert all(len(identifier) == 64 for identifier in items)


def test_kv_moved_and_was_not_computed_again(fleet: Fleet) -> None:
    def hits() -> float:
        lines = fleet.decode.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith("vllm:external_prefix_cache_hits_total{")]
        return float(line.split()[-1])

    before = hits()
    content = [text("how many tokens moved?")]
    response = fleet.decode.chat(content, kv_transfer_params=prefill(fleet.prefill, content))
    assert hits() - before == response.json()["usage"]["prompt_tokens"]


def test_decode_without_parameters_computes_by_itself(fleet: Fleet) -> None:
    assert fleet.decode.tokens("just text") == fleet.plain.tokens("just text")


@pytest.mark.parametrize("fault", ["kv_drop", "kv_swap", "kv_stale"])
def test_a_spoiled_transfer_changes_the_answer(fleet: Fleet, fault: str) -> None:
    through_all(fleet, [text("another request, whose blocks get in the way")])
    content = [text(f"a request whose KV is spoiled by {fault}"), image(7)]
    fleet.decode.fault(f"{fault}:count=1")
    assert through_all(fleet, content) != fleet.plain.tokens(content)
    assert through_all(fleet, content) == fleet.plain.tokens(content)


def test_parameters_of_another_request_give_its_answer(fleet: Fleet) -> None:
    mine, other = [text("what is the capital of France?")], [text("what is the capital of Japan??")]
    swapped = fleet.decode.tokens(mine, kv_transfer_params=prefill(fleet.prefill, other))
    assert swapped == fleet.plain.tokens(other)
    assert swapped != fleet.plain.tokens(mine)


def test_a_late_handoff_is_answered_with_200_and_wrong_tokens(fleet: Fleet) -> None:
    content = [text("this one comes too late")]
    fleet.prefill.fault("kv_late:count=1")
    params = prefill(fleet.prefill, content)
    assert fleet.prefill.state()["leases"] == 0
    assert fleet.decode.tokens(content, kv_transfer_params=params) != fleet.plain.tokens(content)


def test_a_lease_runs_out(engines: Engines, fleet: Fleet) -> None:
    producer = engines.start(
        *nixl_flags("kv_producer", kv_lease_duration=0.05), "--num-gpu-blocks-override", "16", "--max-model-len", "256"
    )
    content = "a prompt whose blocks will belong to somebody else"
    params = prefill(producer, content)
    eventually(lambda: producer.state()["leases"] == 0)
    for filler in range(3):
        producer.tokens(f"{filler}" * 150)
    assert fleet.decode.tokens(content, kv_transfer_params=params) != fleet.plain.tokens(content)


def test_several_prompts_share_the_parameters_of_the_first(fleet: Fleet) -> None:
    body = {"model": "sim-model", "prompt": ["the first prompt", "a second one!!!!"], "temperature": 0}
    body |= {"return_token_ids": True, "max_tokens": 24}
    sent = {**body, "max_tokens": 1, "min_tokens": 1, "kv_transfer_params": REMOTE_DECODE}
    params = fleet.prefill.post("/v1/completions", sent).json()["kv_transfer_params"]
    assert params["remote_request_id"].startswith("cmpl-")
    assert "-0-" in params["remote_request_id"]
    wrong = fleet.decode.post("/v1/completions", {**body, "kv_transfer_params": params}).json()
    right = fleet.plain.post("/v1/completions", body).json()
    assert wrong["choices"][0]["token_ids"] == right["choices"][0]["token_ids"]
    assert wrong["choices"][1]["token_ids"] != right["choices"][1]["token_ids"]


def test_a_dead_producer_is_500_or_200_a_role_and_then_an_error(engines: Engines, fleet: Fleet) -> None:
    producer = engines.start(*nixl_flags("kv_producer"))
    params = prefill(producer, "hello")
    producer.process.kill()
    producer.process.wait()
    whole = fleet.decode.chat("hello", kv_transfer_params=params)
    assert whole.status_code == 500
    assert whole.json() == {
        "error": {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}
    }
    stream = fleet.decode.chat("hello", kv_transfer_params=params, stream=True)
    assert stream.status_code == 200
    events = [line.removeprefix("data: ") for line in stream.text.split("\n\n") if line]
    assert '"role":"assistant"' in events[0]
    assert events[1].startswith('{"error":{"message":"Internal server error"')
    assert events[2] == "[DONE]"
    assert fleet.decode.get("/health").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"remote_host": "x" * 300},
        {"remote_host": "two words"},
        {"remote_port": 1 << 70},
        {"remote_port": -1},
        {"remote_block_ids": [[1 << 70]]},
        {"remote_block_ids": [[10**9]]},
        {"remote_engine_id": "somebody-else"},
    ],
    ids=str,
)
def test_parameters_that_lead_nowhere_are_answered(fleet: Fleet, hasty: Engine, wrong: dict[str, Any]) -> None:
    params = {**prefill(fleet.prefill, "hello"), **wrong}
    assert hasty.chat("hello", kv_transfer_params=params).status_code == 500


def test_a_client_that_leaves_after_a_long_body_is_noticed(fleet: Fleet) -> None:
    body = chat_body("who is there?", padding="x" * 3_000_000, stream=True, max_tokens=30_000, ignore_eos=True)
    with httpx.stream("POST", fleet.plain.url + "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    eventually(lambda: idle(fleet.plain))


def test_a_client_that_leaves_frees_decode_and_prefill(fleet: Fleet) -> None:
    content = "nobody will wait for this"
    params = prefill(fleet.prefill, content)
    body = chat_body(content, kv_transfer_params=params, stream=True, max_tokens=20_000, ignore_eos=True)
    with httpx.stream("POST", fleet.decode.url + "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    eventually(lambda: idle(fleet.decode) and idle(fleet.prefill))


def test_an_item_that_is_lost_is_encoded_again_when_the_media_came_along(fleet: Fleet) -> None:
    content = [text("lost"), image(99)]
    fleet.encode.fault("ec_drop:count=1")
    fleet.encode.chat([image(99)])
    assert fleet.union.tokens(content) == fleet.plain.tokens(content)


def test_a_wrong_embedding_changes_the_answer(fleet: Fleet) -> None:
    content = [text("wrong"), image(98)]
    fleet.encode.fault("ec_wrong:count=1")
    assert through_all(fleet, content) != fleet.plain.tokens(content)


def test_a_metadata_only_miss_kills_the_engine(engines: Engines, tmp_path: Path) -> None:
    consumer = engines.start(*ec_flags("ec_consumer", tmp_path))
    part = {"type": "image_embeds", "image_embeds": {"image_grid_thw": [1, 4, 4]}, "uuid": "nobody-knows-it"}
    answer = consumer.chat([part])
    assert answer.status_code == 500
    assert "EngineCore encountered an issue" in answer.json()["error"]["message"]
    assert consumer.get("/health").status_code == 503
    assert consumer.chat("hello").status_code == 500
    assert consumer.process.poll() is None


def test_kv_by_a_shared_directory(engines: Engines, fleet: Fleet, tmp_path: Path) -> None:
    flags = [*store_flags(tmp_path), "--no-enable-prefix-caching"]
    producer, consumer = engines.start(*flags), engines.start(*flags)
    content = "a prompt that is longer than a few blocks, so that something is stored"
    producer.tokens(content, max_tokens=1)
    assert len(list(tmp_path.glob("*/model.layers.0.self_attn.attn.safetensors"))) == 1
    assert consumer.tokens(content) == fleet.plain.tokens(content)
    assert "vllm:external_prefix_cache_hits_total" in consumer.get("/metrics").text
    (stored,) = tmp_path.glob("*/*.safetensors")
    elsewhere = "A prompt that is longer than a few blocks, so that something is stored"
    producer.tokens(elsewhere, max_tokens=1)
    (other,) = set(tmp_path.glob("*/*.safetensors")) - {stored}
    other.replace(stored)
    assert consumer.tokens(content) != fleet.plain.tokens(content)


def test_embeddings_are_safetensors_where_vllm_puts_them(engines: Engines, tmp_path: Path) -> None:
    encoder = engines.start(*ec_flags("ec_producer", tmp_path))
    (identifier,) = encoder.chat([image(3)]).json()["ec_transfer_params"]
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [
        Path(identifier) / "encoder_cache.safetensors"
    ]


def test_a_uuid_names_the_item_and_need_not_fit_its_content(fleet: Fleet) -> None:
    named = {**image(50), "uuid": "mine"}
    assert list(fleet.encode.chat([named]).json()["ec_transfer_params"]) == ["mine"]
    poisoned = {**image(51), "uuid": "mine"}
    assert fleet.union.tokens([text("x"), poisoned]) == fleet.plain.tokens([text("x"), image(50)])


def test_identifiers_depend_on_model_and_processor_options(engines: Engines, fleet: Fleet, tmp_path: Path) -> None:
    other = engines.start(*ec_flags("ec_producer", tmp_path), model="other-model")
    here = fleet.encode.chat([image(4)]).json()["ec_transfer_params"]
    there = other.chat([image(4)], model="other-model").json()["ec_transfer_params"]
    processed = fleet.encode.chat([image(4)], mm_processor_kwargs={"max_pixels": 4096}).json()["ec_transfer_params"]
    assert len({*here, *there, *processed}) == 3
