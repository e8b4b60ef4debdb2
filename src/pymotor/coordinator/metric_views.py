"""The engines' metrics from afar and from near: as one service, by role, instance, node or data parallel rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple
from urllib.parse import urlsplit

from pymotor.coordinator.engine_figures import Scraped
from pymotor.engines.metrics_meaning import CORE_LABELS, OF_CLIENTS
from pymotor.engines.metrics_merging import Families, Labels, Relabel, merge_families, write_families
from pymotor.fleet import Role
from pymotor.telemetry.metrics import Family, MetricsDump, Sample, render

_ANSWERING = frozenset((Role.DECODE, Role.UNION))
"""Roles whose engines generate what clients get."""


class View(str, Enum):
    """What `GET /metrics?type=` may ask for."""

    FULL = "full"
    """The gateway's own figures, and the engines' as those of one service."""
    INSTANCE = "instance"
    ROLE = "role"
    DP = "dp"
    """Each engine server, and each engine core behind it."""
    NODE = "node"


class _Shape(NamedTuple):
    labels: Callable[[Scraped], dict[str, str]]
    """The labels that a view adds."""
    keeps_cores: bool = False
    """Whether series of the cores of one engine stay apart."""


def _node(scraped: Scraped) -> str:
    return urlsplit(scraped.endpoint.url).hostname or ""


def _rank(scraped: Scraped) -> str:
    return str(scraped.endpoint.data_parallel_rank or 0)


_SHAPES: Mapping[View, _Shape] = {
    View.FULL: _Shape(lambda _: {}),
    View.ROLE: _Shape(lambda one: {"role": one.instance.role.value}),
    View.INSTANCE: _Shape(lambda one: {"instance_id": one.instance.name, "role": one.instance.role.value}),
    View.NODE: _Shape(lambda one: {"pod_ip": _node(one), "role": one.instance.role.value}),
    View.DP: _Shape(
        lambda one: {
            "dp_rank": _rank(one),
            "instance_id": one.instance.name,
            "pod_ip": _node(one),
            "role": one.instance.role.value,
        },
        keeps_cores=True,
    ),
}


def engines_text(view: View, engines: Iterable[Scraped], departed: Iterable[tuple[Role, Families]]) -> str:
    """What the engines say, in the Prometheus text format 0.0.4, and which of them said nothing. `departed`: what
    those that left the fleet had counted, by role."""
    engines = list(engines)
    shape = _SHAPES[view]
    parts = [_part(view, one.instance.role, one.families, shape.labels(one), shape) for one in engines]
    if view in (View.FULL, View.ROLE):
        for role, families in departed:
            added = {"role": role.value} if view is View.ROLE else {}
            parts.append(_part(view, role, families, added, shape))
    return render(MetricsDump((engines_up(engines),))) + write_families(merge_families(parts))


def engines_up(engines: Iterable[Scraped]) -> Family:
    """Which of the engines that were asked have answered."""
    return Family(
        name="pymotor_engine_up",
        kind="gauge",
        help="1 for an engine server that told its metrics when it was asked last, 0 for one that did not.",
        labels=("instance", "endpoint", "role"),
        samples=tuple(
            Sample((one.instance.name, one.endpoint.id, one.instance.role.value), float(one.answered))
            for one in engines
            if one.answered is not None
        ),
    )


def _part(
    view: View, role: Role, families: Families, added: Mapping[str, str], shape: _Shape
) -> tuple[Families, Relabel]:
    if view is View.FULL and role not in _ANSWERING:
        families = {name: family for name, family in families.items() if name not in OF_CLIENTS}
    return families, _relabel(added, shape.keeps_cores)


def _relabel(added: Mapping[str, str], keeps_cores: bool) -> Relabel:
    left_out = frozenset() if keeps_cores else CORE_LABELS
    seen: dict[Labels, Labels] = {}

    def relabel(labels: Labels) -> Labels:
        found = seen.get(labels)
        if found is None:
            # An engine's own label of an added name is kept as Prometheus keeps one that its target's labels hide.
            kept = {
                f"exported_{name}" if name in added else name: value for name, value in labels if name not in left_out
            }
            found = seen[labels] = tuple(sorted({**kept, **added}.items()))
        return found

    return relabel
