"""Gauges that the supervisor makes from the fleet and the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, Ledger
from pymotor.coordinator.scheduling.waiting_line import total_waiting
from pymotor.fleet import InstanceState
from pymotor.telemetry.metrics import Family, MetricsDump, Sample

_ENDPOINT_LABELS = ("instance", "endpoint", "role")


def fleet_metrics(fleet: KnownFleet, ledger: Ledger) -> MetricsDump:
    """Load and requests in flight of each endpoint, the state of each instance, the queue, the snapshot's number."""
    in_flight: list[Sample] = []
    load: list[Sample] = []
    states: list[Sample] = []
    for instance in fleet.instances:
        states += [
            Sample((instance.name, instance.role.value, state.value), float(state is instance.state))
            for state in InstanceState
        ]
        for endpoint in instance.endpoints:
            labels = (instance.name, endpoint.id, instance.role.value)
            row = fleet.row(endpoint)
            in_flight.append(Sample(labels, float(ledger.in_flight(row))))
            load.append(Sample(labels, ledger.charged(row) / TENTHS_PER_ACTIVE_TOKEN))
    return MetricsDump(
        (
            _gauge("pymotor_endpoint_in_flight", "Legs under way at an endpoint.", _ENDPOINT_LABELS, in_flight),
            _gauge("pymotor_endpoint_load_tokens", "Tokens an endpoint is charged with.", _ENDPOINT_LABELS, load),
            _gauge(
                "pymotor_instance_state",
                "1 for the state an instance is in, 0 for the others.",
                ("instance", "role", "state"),
                states,
            ),
            _gauge(
                "pymotor_queue_length",
                "Requests and media items that wait for room at the engines.",
                (),
                [_plain(total_waiting(ledger))],
            ),
            *_numbered(fleet),
        )
    )


def worker_metrics(*, wanted: int, listening: int, restarts: int) -> MetricsDump:
    """How many worker processes there should be and are, and how many were started anew."""
    return MetricsDump(
        (
            _gauge(
                "pymotor_workers",
                "Worker processes: wanted, and accepting requests.",
                ("state",),
                [Sample(("wanted",), float(wanted)), Sample(("listening",), float(listening))],
            ),
            Family(
                name="pymotor_worker_restarts_total",
                kind="counter",
                help="Worker processes started in place of one that died.",
                labels=(),
                samples=(Sample((), float(restarts)),),
            ),
        )
    )


def _numbered(fleet: KnownFleet) -> Iterable[Family]:
    snapshot = fleet.snapshot
    if snapshot is None:
        return
    yield _gauge("pymotor_fleet_version", "Version of the fleet snapshot in use.", (), [_plain(snapshot.version)])
    yield _gauge("pymotor_fleet_epoch", "Epoch of the fleet snapshot in use.", (), [_plain(snapshot.epoch)])


def _plain(value: int) -> Sample:
    return Sample((), float(value))


def _gauge(name: str, help_text: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Family:
    return Family(name=name, kind="gauge", help=help_text, labels=labels, samples=tuple(samples))
