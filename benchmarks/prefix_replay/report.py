"""Tables and a plot of replays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from prefix_replay.summary import GOAL, Summary, of_exact, short_of_goal

_COLOURS = {
    "round_robin": "#6b7280",
    "load_balance": "#111827",
    "prefix_hash": "#60a5fa",
    "prefix_hash_1024_tokens": "#1d4ed8",
    "unified": "#c2410c",
    "load_gated": "#f59e0b",
}
_HEAD = (
    "policy",
    "hit rate",
    "of the bound",
    "of exact",
    "TTFT p50 / p99, s",
    "busy, max/mean",
    "prefill, max/mean",
    "expected, but gone",
    "preemptions",
)


def as_markdown(summaries: Sequence[Summary], how: str) -> str:
    """The report. `how`: the paragraph that says what was run."""
    parts = ["# Routing by prefix: a replayed trace", how]
    for place in _places(summaries):
        found = [each for each in summaries if each.place == place]
        parts += [f"## {_title(found[0])}", _introduction(found[0]), _table(found, summaries)]
    parts.append("## The goal")
    short = short_of_goal(summaries)
    goal = f"Affinity by events has at least {GOAL:.0%} of the hit rate that it has with exact state and no delay"
    parts.append(f"{goal}: {'kept everywhere' if not short else 'missed'}.")
    parts += [f"- {_name(each)}, {_title(each)}: {of_exact(each, summaries):.1%}" for each in short]
    return "\n\n".join(parts) + "\n"


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Writes the plot as PNG: a column for each fleet; hit rates above, times to the first token below."""
    places = _places(summaries)
    figure, grid = pyplot.subplots(2, len(places), figsize=(4.4 * len(places), 7), squeeze=False, sharey="row")
    for column, place in enumerate(places):
        found = [each for each in summaries if each.place == place]
        _hit_rates(grid[0][column], found)
        _first_tokens(grid[1][column], found)
    grid[0][0].set_ylabel("hit rate (dotted: one cache without end)")
    grid[1][0].set_ylabel("seconds to the first token: p50, and p99 paler")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _hit_rates(panel: Axes, found: Sequence[Summary]) -> None:
    panel.bar(range(len(found)), [each.hit_rate for each in found], color=[_colour(each) for each in found])
    for bar, each in zip(panel.patches, found, strict=True):
        bar.set_hatch("//" if each.exact else "")
    panel.axhline(found[0].bound, linestyle=":", color="#111827")
    panel.set_title(_title(found[0]), fontsize=10)
    panel.set_xticks([])


def _first_tokens(panel: Axes, found: Sequence[Summary]) -> None:
    places = range(len(found))
    colours = [_colour(each) for each in found]
    panel.bar(places, [each.first_token_p99 for each in found], color=colours, alpha=0.35)
    panel.bar(places, [each.first_token_p50 for each in found], color=colours)
    panel.set_yscale("log")
    panel.set_xticks(list(places), [_name(each) for each in found], rotation=60, ha="right", fontsize=8)


def _table(found: Sequence[Summary], summaries: Sequence[Summary]) -> str:
    rows = []
    for each in found:
        ratio = of_exact(each, summaries)
        rows.append(
            (
                _name(each),
                f"{each.hit_rate:.2%}",
                f"{each.hit_rate / each.bound:.1%}" if each.bound else "",
                "" if ratio is None else f"{ratio:.1%}",
                f"{each.first_token_p50:.2f} / {each.first_token_p99:.2f}",
                f"{each.busy_spread:.2f}",
                f"{each.prefill_spread:.2f}",
                f"{each.over_expected:.2%}" if each.over_expected else "",
                f"{each.preemptions:,}",
            )
        )
    lines = [" | ".join(_HEAD), " | ".join(["---"] * len(_HEAD)), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _introduction(one: Summary) -> str:
    capacity = f"{one.capacity_tokens:,} tokens of KV for each engine"
    return f"{one.requests_per_second:.1f} requests a second, {capacity}; the bound is a hit rate of {one.bound:.2%}."


def _title(one: Summary) -> str:
    evicts = "nothing evicted" if not one.removed_blocks else f"{one.capacity_tokens / 2**20:.2g} M tokens each"
    return f"{one.engines} engines, {evicts}"


def _name(one: Summary) -> str:
    return f"{one.policy}, exact" if one.exact else one.policy


def _colour(one: Summary) -> str:
    return _COLOURS.get(one.policy, "#16a34a")


def _places(summaries: Sequence[Summary]) -> list[tuple[int, int]]:
    return list(dict.fromkeys(each.place for each in summaries))
