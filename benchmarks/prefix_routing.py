"""What routing by prefix is worth: a trace replayed in virtual time, for every policy of the Coordinator.

Engines are cores of the simulated engine: its scheduler, block pool, KV events and costs, without sockets, real time or
arithmetic on tokens. Policies, ledger and the KV Conductor's index are the Coordinator's and the conductor's own.
The trace is in Mooncake's format: lines of JSON with timestamp, input_length, output_length and hash_ids, one for each
512 tokens.

  python benchmarks/prefix_routing.py TRACE.jsonl
  python benchmarks/prefix_routing.py TRACE.jsonl --requests 2000 --engines 8 --policies load_balance unified

Exit status: 0 affinity by events has 90 % of the hit rate it has with exact state, 1 it has not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
from prefix_replay.replay import Replay, Scenario
from prefix_replay.report import as_markdown, draw
from prefix_replay.summary import Summary, short_of_goal, summarised
from prefix_replay.trace import BLOCK_TOKENS, TracedRequest, TraceError, read_trace, shared_tokens

from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.engines.sim.times import Profile

RESULTS = Path(__file__).resolve().parent / "results" / "prefix_routing"
POLICIES = ("round_robin", "load_balance", "prefix_hash", "prefix_hash_1024_tokens", "unified", "load_gated")
AFFINITY = {"unified": AffinityRules(mode="unified"), "load_gated": AffinityRules(mode="load_gated")}
SPEED_OF_AN_ENGINE = 3 / 8
"""How many times the trace's speed each engine takes: near what it can do."""
SMALL_TOKENS = 1 << 20
LARGE_TOKENS = 1 << 25
"""KV of an engine that evicts, and of one that never does."""


def main(words: Sequence[str] | None = None) -> int:
    """Replay and report; returns the exit status."""
    arguments = _parser().parse_args(words)
    try:
        requests = read_trace(arguments.trace, arguments.requests)
    except (OSError, TraceError) as error:
        print(f"{error}: name a trace in Mooncake's format", file=sys.stderr)
        return 2
    scenarios = [
        scenario
        for engines in arguments.engines
        for tokens in (arguments.small, LARGE_TOKENS)
        for scenario in _scenarios(arguments.policies, engines, tokens // BLOCK_TOKENS, arguments.speed)
    ]
    summaries = []
    with ProcessPoolExecutor(arguments.processes) as processes:
        for summary in processes.map(partial(_replayed, requests, shared_tokens(requests)), scenarios):
            print(_line(summary), flush=True)
            summaries.append(summary)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "figures.json").write_bytes(msgspec.json.format(msgspec.json.encode(summaries)) + b"\n")
    (arguments.results / "README.md").write_text(as_markdown(summaries, _how(arguments.trace.name, requests)))
    draw(summaries, arguments.results / "prefix_routing.png")
    return 1 if short_of_goal(summaries) else 0


def _scenarios(policies: Sequence[str], engines: int, blocks: int, speed: float) -> list[Scenario]:
    return [
        Scenario(
            policy=policy,
            engines=engines,
            blocks=blocks,
            speed=speed * engines,
            exact=exact,
            rules=AFFINITY.get(policy),
        )
        for policy in policies
        for exact in ((False, True) if policy in AFFINITY else (False,))
    ]


def _replayed(requests: Sequence[TracedRequest], shared: int, scenario: Scenario) -> Summary:
    return summarised(scenario, Replay(scenario, requests, Profile()).run(), shared)


def _line(one: Summary) -> str:
    name = f"{one.policy}{' exact' if one.exact else ''}"
    return (
        f"{one.engines:3} engines of {one.capacity_tokens:>10,} tokens  {name:24} hit rate {one.hit_rate:.4f} "
        f"of {one.bound:.4f}  TTFT p50 {one.first_token_p50:.2f} p99 {one.first_token_p99:.2f} s  "
        f"busy max/mean {one.busy_spread:.3f}  ({one.wall_seconds:.0f} s)"
    )


def _how(trace: str, requests: Sequence[TracedRequest]) -> str:
    tokens = sum(request.prompt_tokens for request in requests)
    return (
        f"`python benchmarks/prefix_routing.py {trace}`: {len(requests):,} requests with {tokens:,} prompt tokens. "
        f"Requests come, for each engine, at {SPEED_OF_AN_ENGINE:g} times the trace's speed unless told otherwise. "
        f"Blocks have {BLOCK_TOKENS} tokens as in the trace. Events reach the index 5 ms after their step in the mean "
        f"(exponential, in order); `exact` is the same policy with the engines' caches as they are and what is queued "
        f"there. The bound is one cache without end for all. The trace names no sessions, so that stickiness cannot be "
        f"replayed. `prefix_hash` hashes 256 tokens, as the Coordinator does by default."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trace", type=Path, help="JSON lines in Mooncake's format")
    parser.add_argument("--requests", type=int, help="only so many of them")
    parser.add_argument("--engines", type=int, nargs="+", default=[8, 64], help="sizes of the fleet (default: 8 64)")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, help="(default: all)")
    parser.add_argument(
        "--small", type=int, default=SMALL_TOKENS, help="tokens of KV of engines that evict (default: %(default)s)"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=SPEED_OF_AN_ENGINE,
        help="times the trace's own speed, for each engine (default: %(default)s)",
    )
    parser.add_argument("--processes", type=int, default=1, help="replays at once (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where reports go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
