"""The KV Conductor's index against Dynamo's RadixTree and a plain Python dict.

For 16, 256 and 4,096 endpoints: how many blocks a second it takes from events (msgpack as vLLM sends them), what a
choice costs (token ids in, endpoint out by the Coordinator's policy, hashing included) for prompts of 1k to 128k
tokens, in one process and with the index in another that is asked over a socket, and memory for each block that an
endpoint holds. Each index has a process of its own and is asked for the same choices; a wrong one ends the run. Rounds
of all take turns, and of each figure the least counts, because other work on the machine only ever adds.

Over a socket both processes have one CPU together, and once more as many as there are: with a CPU for each, one waits
while the other works, and what it costs to wake an idle CPU (on a virtual machine 10 to 60 us, as its host likes) is
more than the indexes differ by. Both are in the results; the first is judged.

  benchmarks/setup.sh
  python benchmarks/prefix_index.py
  python benchmarks/prefix_index.py --endpoints 16 --contenders pymotor plain_dict

Exit status: 0 measured, and PyMotor is ahead of both wherever somebody holds the prompt's beginning; 1 it is not,
or an index failed; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefix_index_parts.contenders import CONTENDERS
from prefix_index_parts.over_socket import Asker
from prefix_index_parts.questions import Question, questions
from prefix_index_parts.report import behind, behind_on_all_cpus, markdown, plot

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
PROCESS = HERE / "prefix_index_parts" / "contender_process.py"
BENCH_PYTHON = Path(os.environ.get("PYMOTOR_BENCH_VENV", HERE.parent / ".venv-bench")) / "bin" / "python"


FILL_ROUNDS, CHOICE_ROUNDS = 2, 24
ALL_CPUS = os.sched_getaffinity(0)


def main() -> int:
    """Measures, writes the results and says where PyMotor is behind."""
    arguments = parse()
    results: list[dict[str, Any]] = []
    for endpoints in arguments.endpoints:
        results += measure(arguments.contenders, endpoints, arguments.entries)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "prefix_index.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.results / "prefix_index.md").write_text(markdown(results))
    plot(results, arguments.results / "prefix_index.png")
    lines = behind(results)
    print("\n".join(lines) or "PyMotor is ahead wherever somebody holds the prompt's beginning")
    for line in behind_on_all_cpus(results):
        print(f"not judged: {line}")
    return 1 if lines else 0


def measure(names: list[str], endpoints: int, entries: int) -> list[dict[str, Any]]:
    """All indexes at one number of endpoints, in turns."""
    with contextlib.ExitStack() as stack:
        indexes = {name: stack.enter_context(Process(name, endpoints, entries)) for name in names}
        results: dict[str, dict[str, Any]] = {name: {"contender": name, "endpoints": endpoints} for name in names}
        for round_ in range(FILL_ROUNDS):
            for name, index in indexes.items():
                tell(f"{endpoints} endpoints, events, round {round_ + 1}: {name}")
                least(results[name], index.ask("fill"))
        asked = list(questions(endpoints))
        for round_ in range(CHOICE_ROUNDS):
            tell(f"{endpoints} endpoints, choices, round {round_ + 1}")
            for name, index in indexes.items():
                least(results[name], {"choices": index.ask("choose")})
                for way, cpus in (("over_socket", {min(ALL_CPUS)}), ("over_socket_on_all_cpus", ALL_CPUS)):
                    least(results[name], {way: index.over_socket(asked, cpus)})
    return list(results.values())


class Process:
    """One index in a process of its own, until the context ends."""

    def __init__(self, name: str, endpoints: int, entries: int) -> None:
        python = str(BENCH_PYTHON) if name == "radix_tree" else sys.executable
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
        command = [python, str(PROCESS), name, str(endpoints), str(entries)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def ask(self, command: str) -> Any:
        """One round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args}: ended by itself; see above")
        return json.loads(line)

    def over_socket(self, asked: list[Question], cpus: set[int]) -> list[dict[str, Any]]:
        """One round of all questions, from this process, while both may use these CPUs."""
        asker = Asker(self.ask("serve"), self._process.pid)
        self._keep_to(cpus)
        try:
            return [{"tokens": len(one.prompt), "kind": one.kind, **asker.round(one)} for one in asked]
        finally:
            asker.close()
            self._keep_to(ALL_CPUS)

    def _keep_to(self, cpus: set[int]) -> None:
        os.sched_setaffinity(0, cpus)
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cpus)


def least(known: dict[str, Any], found: dict[str, Any]) -> None:
    """Takes over what a round measured, of figures that are there already the least (of a rate the most)."""
    for name, value in found.items():
        if isinstance(value, dict):
            least(known.setdefault(name, {}), value)
        elif isinstance(value, list):
            rows = known.setdefault(name, [{} for _ in value])
            for row, one in zip(rows, value, strict=True):
                least(row, one)
        elif isinstance(value, float) and name in known:
            known[name] = max(value, known[name]) if name.endswith("_per_second") else min(value, known[name])
        else:
            known[name] = value


def tell(what: str) -> None:
    """How far it is."""
    print(what, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, nargs="+", default=[16, 256, 4096], metavar="N")
    parser.add_argument("--entries", type=int, default=1 << 18, help="blocks that one endpoint each holds")
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"{', '.join(CONTENDERS)}, or another as module:name",
    )
    parser.add_argument("--results", type=Path, default=HERE / "results" / "prefix_index")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
