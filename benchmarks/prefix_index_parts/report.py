"""What was measured, as tables and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = {"pymotor": "PyMotor", "radix_tree": "Dynamo RadixTree", "plain_dict": "plain dict"}
STAGES = {
    "prefill": "prefill, prompts of one endpoint each",
    "prefill_of_a_shared_prompt": "prefill of a prompt that all hold",
    "decode": "decode, one block for an event",
    "removal": "removal, one block for an event",
}
WAYS_OVER_SOCKET = {
    "over_socket": "both processes on one CPU",
    "over_socket_on_all_cpus": "on all CPUs, of which idle ones have to be woken",
}
Results = list[dict[str, Any]]


def markdown(results: Results) -> str:
    """All figures."""
    contenders = list(dict.fromkeys(result["contender"] for result in results))
    head = [NAMES.get(name, name) for name in contenders]
    lines = [
        "# Prefix index",
        "",
        "One run of `benchmarks/prefix_index.py`; blocks of 16 tokens. CPU time of all threads of an index's process.",
        "All indexes take turns, a round each; of each figure the least of all rounds is shown.",
    ]
    for endpoints in dict.fromkeys(result["endpoints"] for result in results):
        own = {result["contender"]: result for result in results if result["endpoints"] == endpoints}
        lines += ["", f"## {endpoints:,} endpoints", "", "Choice: token ids in, endpoint out, microseconds.", ""]
        lines += _table(["tokens", "held", *head], _choices(own, contenders, "choices"))
        for way, cpus in WAYS_OVER_SOCKET.items():
            lines += ["", f"Over a socket, {cpus}: microseconds of both processes (until the choice is made).", ""]
            lines += _table(["tokens", "held", *head], _choices(own, contenders, way))
        lines += [
            "",
            "Events in: thousand blocks a second (microseconds for a block, of which conversion).",
            "",
        ]
        lines += _table(["", *head], _stages(own, contenders))
        memory = [f"{own[name]['memory_bytes_per_entry']:.0f}" for name in contenders]
        lines += ["", "Resident memory for each block that one endpoint holds, bytes.", ""]
        lines += _table(head, [memory])
    lines += [
        "",
        "Conversion: what a payload costs before the index sees it. For PyMotor msgpack alone, as it decodes token",
        "ids only of blocks that it does not know; for the dict msgpack and packed tokens; for the RadixTree msgpack,",
        "hashes of blocks, and JSON. Choices begin with a list of ids for all; packing them into 4 bytes each, which",
        "PyMotor's Coordinator does once for a request, is in the figures of PyMotor and of the dict. All choose by",
        "the Coordinator's policy. Over a socket all three stand behind the KV Conductor's own server and frames, one",
        "question at a time; ids go packed, and are unpacked for the RadixTree, which takes lists.",
    ]
    return "\n".join(lines) + "\n"


def behind(results: Results) -> list[str]:
    """Where PyMotor's choice costs more than another's, of prompts whose beginning somebody holds."""
    return _behind(results, "choices") + _behind(results, "over_socket")


def behind_on_all_cpus(results: Results) -> list[str]:
    """Likewise over a socket with all CPUs, which is told and not judged."""
    return _behind(results, "over_socket_on_all_cpus")


def _behind(results: Results, way: str) -> list[str]:
    by_key: dict[tuple[Any, ...], dict[str, float]] = {}
    for result in results:
        for choice in result[way]:
            key = (result["endpoints"], choice["tokens"], choice["kind"])
            by_key.setdefault(key, {})[result["contender"]] = choice["microseconds"]
    lines = []
    for (endpoints, tokens, kind), costs in by_key.items():
        best = min((cost for name, cost in costs.items() if name != "pymotor"), default=None)
        if kind != "nobody holds it" and best is not None and costs.get("pymotor", 0) > best:
            found = f"{costs['pymotor']:.1f} against {best:.1f} us"
            lines.append(f"{way}: {endpoints} endpoints, {tokens} tokens, {kind}: {found}")
    return lines


def plot(results: Results, path: Path) -> None:
    """How choices, events and memory grow."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot  # type: ignore[import-not-found,unused-ignore]

    sizes = list(dict.fromkeys(result["endpoints"] for result in results))
    figure, axes = pyplot.subplots(3, max(2, len(sizes)), figsize=(5 * max(2, len(sizes)), 12), squeeze=False)
    for column, endpoints in enumerate(sizes):
        for row, way, title in ((0, "choices", "choice"), (1, "over_socket", "choice over a socket")):
            for result in (one for one in results if one["endpoints"] == endpoints):
                held = [choice for choice in result[way] if choice["kind"] == "one holds all"]
                name = NAMES.get(result["contender"], result["contender"])
                axes[row][column].loglog(
                    [c["tokens"] for c in held], [c["microseconds"] for c in held], "o-", label=name
                )
            axes[row][column].set(
                title=f"{title}, {endpoints:,} endpoints", xlabel="tokens of the prompt", ylabel="CPU us"
            )
            axes[row][column].legend()
    for name in dict.fromkeys(result["contender"] for result in results):
        own = [result for result in results if result["contender"] == name]
        label = NAMES.get(name, name)
        rates = [result["ingest"]["prefill"]["blocks_per_second"] / 1e6 for result in own]
        axes[2][0].semilogx([result["endpoints"] for result in own], rates, "o-", label=label)
        memory = [result["memory_bytes_per_entry"] for result in own]
        axes[2][1].semilogx([result["endpoints"] for result in own], memory, "o-", label=label)
    axes[2][0].set(title="events of prefill", xlabel="endpoints", ylabel="million blocks a CPU second", ylim=(0, None))
    axes[2][1].set(title="memory", xlabel="endpoints", ylabel="bytes for a block of an endpoint", ylim=(0, None))
    axes[2][0].legend()
    axes[2][1].legend()
    for spare in axes[2][2:]:
        spare.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _choices(own: dict[str, Any], contenders: list[str], way: str) -> list[list[str]]:
    rows = []
    for place, choice in enumerate(own[contenders[0]][way]):
        cells = []
        for name in contenders:
            cost = own[name][way][place]
            until = f" ({cost['microseconds_until_answer']:.0f})" if way in WAYS_OVER_SOCKET else ""
            cells.append(f"{cost['microseconds']:.1f}{until}")
        rows.append([f"{choice['tokens']:,}", choice["kind"], *cells])
    return rows


def _stages(own: dict[str, Any], contenders: list[str]) -> list[list[str]]:
    rows = []
    for stage, title in STAGES.items():
        cells = []
        for name in contenders:
            figures = own[name]["ingest"][stage]
            parts = f"{figures['microseconds']:.2f}, {figures['microseconds_of_conversion']:.2f}"
            cells.append(f"{figures['blocks_per_second'] / 1000:,.0f} ({parts})")
        rows.append([title, *cells])
    return rows


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
