"""The plot of a run: a panel for each scenario, CPU time for a request by gateway and number of endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from overhead.measure import Measurement
from overhead.scenarios import SCENARIOS
from overhead.summary import rounds_of, spread

COLOURS = {
    "pymotor": "#c2410c",
    "pymotor-2-workers": "#f59e0b",
    "pymotor-carry-on": "#7c2d12",
    "pymotor-proxy": "#fb923c",
    "vllm-router": "#1d4ed8",
    "vllm-router-cache-aware": "#60a5fa",
    "haproxy": "#6b7280",
}
COLUMNS = 4


def draw(measurements: Sequence[Measurement], path: Path) -> None:
    """Writes the plot as PNG."""
    measured = [each for each in measurements if each.gateway in COLOURS and not each.errors]
    names = [name for name in SCENARIOS if any(each.scenario == name for each in measured)]
    if not names:
        return
    lines = (len(names) + COLUMNS - 1) // COLUMNS
    columns = min(COLUMNS, len(names))
    figure, grid = pyplot.subplots(lines, columns, figsize=(3.6 * columns, 3.3 * lines), squeeze=False)
    panels = [panel for line in grid for panel in line]
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels, names, strict=False):
        _panel(panel, [each for each in measured if each.scenario == name], name)
    handles: dict[str, Artist] = {}
    for panel in panels[: len(names)]:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="lower center", ncols=len(handles), frameon=False)
    figure.suptitle("CPU time of the gateway for a request, all its processes (median, least and greatest round)")
    figure.tight_layout(rect=(0, 0.06, 1, 0.98))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(panel: Axes, measured: Sequence[Measurement], name: str) -> None:
    scenario = SCENARIOS[name]
    endpoints = sorted({each.endpoints for each in measured})
    gateways = [gateway for gateway in COLOURS if any(each.gateway == gateway for each in measured)]
    width = 0.8 / len(gateways)
    for place, gateway in enumerate(gateways):
        for position, count in enumerate(endpoints):
            rounds = rounds_of(measured, gateway, name, count).values()
            if not rounds:
                continue
            values = spread([each.cpu_us for each in rounds])
            x = position - 0.4 + width * (place + 0.5)
            error = [[values.median - values.low], [values.high - values.median]]
            label = gateway if position == 0 else None
            panel.bar(x, values.median, width * 0.92, yerr=error, color=COLOURS[gateway], label=label, capsize=2)
            panel.annotate(
                f"{values.median:.0f}", (x, values.high), xytext=(0, 2), textcoords="offset points", ha="center", size=8
            )
    _limits(panel, measured, name, endpoints)
    panel.set_title(scenario.title, fontsize=10)
    panel.set_xticks(range(len(endpoints)), [f"{count:,} endpoints" for count in endpoints])
    panel.set_ylabel("µs")
    panel.margins(y=0.15)
    panel.spines[["top", "right"]].set_visible(False)


def _limits(panel: Axes, measured: Sequence[Measurement], name: str, endpoints: Sequence[int]) -> None:
    limit = SCENARIOS[name].limit
    if limit is None:
        return
    for position, count in enumerate(endpoints):
        peers = rounds_of(measured, "vllm-router", name, count).values()
        if peers:
            height = limit * spread([each.cpu_us for each in peers]).median
            panel.hlines(height, position - 0.42, position + 0.42, colors="black", linestyles="dashed", label="limit")
