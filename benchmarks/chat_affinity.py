"""Chats that go on, through every scheduling policy: what of their prompts engines had cached, and the time to the
first token.

For each policy a fleet of its own (`pymotor up`), with nothing cached; the same users with the same questions. Engines
count how many tokens of the prompts they looked up and found (`vllm:prefix_cache_queries`, `_hits`); the time is the
clients'. Before the load of kv_cache_affinity a quiet replay, one request at a time: what the Coordinator expected of
the endpoint that it chose is compared with what that engine then counted.

  python benchmarks/chat_affinity.py --engine vllm --fleet 2u
  python benchmarks/chat_affinity.py --engine sim --fleet 2p2d --users 4 --turns 5

Exit status: 0 measured, 1 a fleet failed, an answer was wrong or a quiet prediction was, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chats.conversations import Turn, run_chats
from chats.fleet import CacheCounts, Fleet, config, write_config
from chats.prediction import ErrorUnderLoad, Prediction, error_under_load, quiet_replay

from pymotor.engines.tiny_model import make_tiny_model

RESULTS = Path(__file__).resolve().parent / "results" / "chat_affinity"
POLICIES = ("round_robin", "load_balance", "kv_cache_affinity")
PREFIX_ROLE = {"2u": "union", "2p2d": "prefill"}


@dataclass
class Measured:
    """What one policy brought."""

    policy: str
    requests: int
    queries: float
    hits: float
    first_token: list[float]
    """Seconds, ascending."""
    by_instance: dict[str, int]
    predictions: list[Prediction]
    under_load: ErrorUnderLoad | None

    @property
    def hit_rate(self) -> float:
        """Of the tokens looked up, those found."""
        return self.hits / self.queries if self.queries else 0.0

    def percentile(self, share: float) -> float:
        """Seconds to the first token that this share of the requests did not exceed."""
        return self.first_token[min(len(self.first_token) - 1, int(share * len(self.first_token)))]


def measure(policy: str, chosen: argparse.Namespace, directory: Path, model: Path) -> Measured:
    """One policy's fleet from its start to its end. Raises `RuntimeError` when it fails."""
    home = directory / policy
    write_config(home, config(chosen.engine, model, chosen.fleet, policy, chosen.port, chosen.patience))
    fleet = Fleet(home / "state", chosen.port)
    fleet.up(home)
    try:
        role = PREFIX_ROLE[chosen.fleet]
        predictions = quiet_replay(fleet, role, chosen.seed + 1) if policy == "kv_cache_affinity" else []
        quiet = error_under_load(fleet) if policy == "kv_cache_affinity" else None
        before = fleet.cache_counts(role)
        turns = asyncio.run(run_chats(fleet.url, chosen.users, chosen.turns, chosen.seed, chosen.pause, chosen.words))
        counts = [after.since(before[name]) for name, after in fleet.cache_counts(role).items()]
        under_load = error_under_load(fleet, quiet) if quiet is not None else None
    finally:
        fleet.down()
    return summed(policy, turns, counts, predictions, under_load)


def summed(
    policy: str,
    turns: list[Turn],
    counts: list[CacheCounts],
    predictions: list[Prediction],
    under_load: ErrorUnderLoad | None,
) -> Measured:
    """The figures of one policy."""
    legs = [turn.legs.get("prefill") or turn.legs.get("union") or next(iter(turn.legs.values()), "?") for turn in turns]
    return Measured(
        policy,
        len(turns),
        sum(count.queries for count in counts),
        sum(count.hits for count in counts),
        sorted(turn.seconds_to_first_token for turn in turns),
        {name: legs.count(name) for name in sorted(set(legs))},
        predictions,
        under_load,
    )


def report(measured: list[Measured], chosen: argparse.Namespace) -> str:
    """The figures as Markdown."""
    lines = [
        f"# Chats through {chosen.fleet}, {chosen.engine} engines",
        "",
        f"{chosen.users} users, {chosen.turns} turns each of {chosen.words} words, pauses of {chosen.pause:g} s on "
        f"average, {1000 * chosen.patience:g} ms of patience with the KV Conductor; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}. One run, a fleet for each "
        "policy.",
        "",
        "| policy | requests | hit rate | first token p50 ms | p99 ms | mean ms | requests by instance |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        shares = ", ".join(f"{name} {count}" for name, count in one.by_instance.items())
        lines.append(
            f"| {one.policy} | {one.requests} | {one.hit_rate:.3f} | {1000 * one.percentile(0.5):.0f} | "
            f"{1000 * one.percentile(0.99):.0f} | {1000 * statistics.mean(one.first_token):.0f} | {shares} |"
        )
    for one in measured:
        if one.predictions:
            wrong = sum(prediction.wrong for prediction in one.predictions)
            lines += [
                "",
                f"Quiet replay: {len(one.predictions)} requests one at a time, {wrong} predictions differ from what "
                f"the engine counted ({sum(p.predicted for p in one.predictions)} tokens predicted, "
                f"{sum(p.counted for p in one.predictions)} counted).",
            ]
        if one.under_load is not None:
            lines += ["", one.under_load.sentence(one.hits)]
    return "\n".join(lines) + "\n"


def as_json(one: Measured) -> dict[str, Any]:
    """The figures for scripts."""
    return {
        "policy": one.policy,
        "requests": one.requests,
        "hit_rate": one.hit_rate,
        "queries_tokens": one.queries,
        "hits_tokens": one.hits,
        "first_token_seconds": {share: one.percentile(float(share)) for share in ("0.5", "0.9", "0.99")},
        "by_instance": one.by_instance,
        "quiet": [{"predicted": p.predicted, "counted": p.counted, "instance": p.instance} for p in one.predictions],
        "under_load": None if one.under_load is None else vars(one.under_load),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--engine", choices=("sim", "vllm"), default="sim", help="what answers (default: sim)")
    made.add_argument("--fleet", choices=tuple(PREFIX_ROLE), default="2u", help="2 unions, or 2 prefill and 2 decode")
    made.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, metavar="POLICY")
    made.add_argument("--users", type=int, default=16)
    made.add_argument("--turns", type=int, default=20)
    made.add_argument("--pause", type=float, default=1.0, help="seconds between a user's turns, on average")
    made.add_argument("--words", type=int, default=40, help="of a user's question; a word has about 6 tokens")
    made.add_argument(
        "--patience", type=float, default=0.02, help="seconds that a request waits for the KV Conductor (default: 0.02)"
    )
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--port", type=int, default=27100, help="the fleet's ports begin here")
    made.add_argument("--out", type=Path, default=RESULTS, help="directory of the report")
    return made


def main() -> int:
    """The command."""
    chosen = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="chat-affinity-") as made:
        directory = Path(made)
        model = directory / "tiny-qwen3-vl"
        make_tiny_model(model)
        measured = []
        for policy in chosen.policies:
            print(f"{policy} ...", file=sys.stderr, flush=True)
            try:
                measured.append(measure(policy, chosen, directory, model))
            except RuntimeError as failure:
                print(f"chat_affinity: {policy}: {failure}", file=sys.stderr)
                return 1
    chosen.out.mkdir(parents=True, exist_ok=True)
    name = f"{chosen.engine}_{chosen.fleet}"
    text = report(measured, chosen)
    (chosen.out / f"{name}.md").write_text(text)
    (chosen.out / f"{name}.json").write_text(json.dumps([as_json(one) for one in measured], indent=1) + "\n")
    print(text)
    return int(any(prediction.wrong for one in measured for prediction in one.predictions))


if __name__ == "__main__":
    sys.exit(main())
