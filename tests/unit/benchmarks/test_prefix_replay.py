"""The replay of traces: what it counts, that shortcuts change nothing, and what a few hundred requests come to."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prefix_replay.replay import Outcome, Replay, Scenario
from prefix_replay.summary import Summary, of_exact, short_of_goal, summarised
from prefix_replay.trace import BLOCK_TOKENS, TracedRequest, TraceError, read_trace, shared_tokens
from prefix_routing import main

from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.engines.sim.times import Profile


def conversations(count: int, turns: int, *, seed: int = 1, gap: float = 4.0) -> list[TracedRequest]:
    """Chats that begin with the same block; each turn repeats what was said and says something new."""
    chance = random.Random(seed)
    fresh = iter(range(1, 1_000_000))
    found = []
    for _ in range(count):
        blocks, arrival = [0], chance.uniform(0, gap * turns)
        for _ in range(turns):
            blocks = [*blocks, *(next(fresh) for _ in range(chance.randint(1, 6)))]
            cut = chance.randint(0, BLOCK_TOKENS - 1)
            request = TracedRequest(arrival, len(blocks) * BLOCK_TOKENS - cut, chance.randint(1, 300), tuple(blocks))
            found.append(request)
            blocks = blocks[:-1]
            arrival += chance.expovariate(1 / gap)
    return sorted(found, key=lambda request: request.arrival)


REQUESTS = conversations(60, 5)
ROOMY, TIGHT = 4096, 160


def replayed(policy: str, *, blocks: int = ROOMY, skips: bool = True, speed: float = 8.0, **fields: object) -> Outcome:
    rules = AffinityRules(mode=policy) if policy in ("unified", "load_gated") else None  # type: ignore[arg-type]
    scenario = Scenario(policy=policy, engines=4, blocks=blocks, speed=speed, rules=rules, **fields)  # type: ignore[arg-type]
    return Replay(scenario, REQUESTS, Profile(), skips=skips).run()


def hit_rate(outcome: Outcome) -> float:
    return outcome.hit_tokens / outcome.prompt_tokens


@pytest.mark.parametrize("policy", ["load_balance", "unified"])
@pytest.mark.parametrize("blocks", [ROOMY, TIGHT])
def test_steps_that_are_skipped_change_nothing(policy: str, blocks: int) -> None:
    quick, slow = (replayed(policy, blocks=blocks, skips=skips) for skips in (True, False))
    assert msgspec.structs.replace(quick, wall_seconds=0.0) == msgspec.structs.replace(slow, wall_seconds=0.0)


def test_a_replay_is_the_same_each_time() -> None:
    first, second = (replayed("unified", blocks=TIGHT) for _ in range(2))
    assert first.first_token_seconds == second.first_token_seconds
    other = replayed("unified", blocks=TIGHT, event_delay=0.5)
    assert other.first_token_seconds != first.first_token_seconds


def test_every_prompt_is_counted_and_answered() -> None:
    outcome = replayed("round_robin")
    assert outcome.prompt_tokens == sum(request.prompt_tokens for request in REQUESTS)
    assert len(outcome.first_token_seconds) == len(REQUESTS)
    assert min(outcome.first_token_seconds) > 0
    assert sum(outcome.prefilled_tokens) == outcome.prompt_tokens - outcome.hit_tokens


def test_one_engine_with_room_comes_to_the_bound() -> None:
    scenario = Scenario(policy="round_robin", engines=1, blocks=ROOMY, speed=0.01)
    outcome = Replay(scenario, REQUESTS, Profile()).run()
    assert outcome.hit_tokens == shared_tokens(REQUESTS)


def test_affinity_finds_more_than_load_alone_and_nearly_what_it_would_with_exact_state() -> None:
    shared = shared_tokens(REQUESTS) / sum(request.prompt_tokens for request in REQUESTS)
    for blocks in (ROOMY, TIGHT):
        by_load = hit_rate(replayed("load_balance", blocks=blocks))
        told = hit_rate(replayed("unified", blocks=blocks))
        exact = hit_rate(replayed("unified", blocks=blocks, exact=True))
        assert by_load < told <= shared
        assert told >= 0.9 * exact


def test_what_events_do_not_tell_in_time_is_missed() -> None:
    """With the routed prompts forgotten after 2 s, an index that hears nothing finds next to nothing."""
    deaf, hearing = (replayed("unified", speed=0.2, event_delay=delay) for delay in (1e6, 0.005))
    assert hit_rate(deaf) < hit_rate(hearing) - 0.1


def test_no_expectation_fails_while_nothing_is_evicted() -> None:
    outcome = replayed("unified", speed=0.2)
    assert outcome.expected_tokens > 0
    assert (sum(outcome.removed_blocks), outcome.missing_tokens) == (0, 0)
    assert sum(replayed("unified", blocks=TIGHT).removed_blocks) > 0


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="alphabetical"):
        replayed("alphabetical")


def test_a_trace_is_read_with_its_blocks_as_tokens(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [7, 8]},
        {"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [7]},
        {"timestamp": 3000, "input_length": 513, "output_length": 0, "hash_ids": [7, 9]},
    ]
    trace.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    first, second, third = read_trace(trace)
    assert [each.arrival for each in (first, second, third)] == [0.0, 1.5, 3.0]
    assert len(first.tokens()) == 600
    assert np.array_equal(first.tokens()[:512], second.tokens())
    assert np.array_equal(first.tokens()[:512], third.tokens()[:512])
    assert third.tokens()[512] != first.tokens()[512]
    assert third.answer_tokens == 1
    assert shared_tokens([first, second, third]) == 512  # of the second only its last token is computed: no block
    assert len(read_trace(trace, most=2)) == 2
    trace.write_text('{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [7]}')
    with pytest.raises(TraceError, match=r"trace.jsonl:1: 1 hash ids for 600 tokens"):
        read_trace(trace)


def summary(**changes: object) -> Summary:
    scenario = Scenario(policy="unified", engines=2, blocks=ROOMY, speed=1.0)
    outcome = Outcome(
        prompt_tokens=100,
        hit_tokens=40,
        first_token_seconds=[1.0, 3.0],
        busy_seconds=[1.0, 3.0],
        prefilled_tokens=[20, 40],
        removed_blocks=[0, 0],
        preemptions=0,
        expected_tokens=50,
        missing_tokens=5,
        virtual_seconds=4.0,
        wall_seconds=1.0,
    )
    return msgspec.structs.replace(summarised(scenario, outcome, 80), **changes)


def test_figures_of_a_replay() -> None:
    one = summary()
    assert (one.hit_rate, one.bound, one.busy_spread, one.busy, one.over_expected) == (0.4, 0.8, 1.5, 0.5, 0.1)
    assert (one.first_token_p50, one.requests_per_second) == (2.0, 0.5)


def test_affinity_is_compared_with_itself_only() -> None:
    exact = summary(exact=True, hit_rate=0.5)
    assert of_exact(summary(), [exact]) == 0.8
    assert of_exact(summary(engines=3), [exact]) is None
    assert of_exact(exact, [exact]) is None
    assert short_of_goal([summary(), exact]) == [summary()]
    assert short_of_goal([summary(hit_rate=0.45), exact]) == []


def test_the_command_writes_its_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [
        {
            "timestamp": 1000 * request.arrival,
            "input_length": request.prompt_tokens,
            "output_length": request.answer_tokens,
            "hash_ids": request.blocks,
        }
        for request in REQUESTS
    ]
    trace.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    words = [str(trace), "--requests", "60", "--engines", "2", "--results", str(tmp_path / "results")]
    assert main([*words, "--policies", "load_balance", "unified"]) == 0
    assert "| unified, exact |" in (tmp_path / "results" / "README.md").read_text()
    assert len(msgspec.json.decode((tmp_path / "results" / "figures.json").read_bytes())) == 6
    assert (tmp_path / "results" / "prefix_routing.png").stat().st_size > 0
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
