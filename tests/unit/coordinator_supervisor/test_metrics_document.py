"""docs/metrics.md names each metric that exists, with its labels, and none that does not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sample_fleets import UNION, fleet

from pymotor.config import ConfigState
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.fleet_metrics import fleet_metrics, worker_metrics
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.coordinator.limits.usage import KeyUsage
from pymotor.coordinator.live_settings import config_metrics
from pymotor.coordinator.metric_views import engines_up
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.tracing.exporting import outcome_counter
from pymotor.kv_conductor.instruments import Figures
from pymotor.telemetry.metrics import MetricsDump, merge

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def everything() -> MetricsDump:
    known = KnownFleet(4)
    known.accept(fleet(UNION))
    descriptor = Ledger.allocate(columns=1, rows=4)
    try:
        of_fleet = fleet_metrics(known, Ledger(descriptor, columns=1, rows=4, column=None))
    finally:
        os.close(descriptor)
    of_config = MetricsDump(tuple(config_metrics(ConfigState(file="user_config.json", revision="0", since=0.0))))
    workers = worker_metrics(wanted=1, listening=1, restarts=0)
    instruments = Instruments()
    AffinityInstruments(instruments.registry)
    KeyUsage(instruments.registry)
    outcome_counter(instruments.registry)
    asked = MetricsDump((engines_up([]),))
    return merge([instruments.registry.dump(), of_fleet, of_config, workers, asked, Figures().registry.dump()])


def test_the_document_and_the_code_name_the_same_metrics() -> None:
    documented: dict[str, tuple[str, set[str]]] = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`(pymotor_\w+)`", cells[0])
        if names and len(cells) == 4:
            documented |= {name: (cells[1], set(re.findall(r"`(\w+)`", cells[2]))) for name in names}
    existing = {family.name: (family.kind, set(family.labels)) for family in everything().families}
    assert documented == existing
