"""The metrics of the KV Conductor; docs/metrics.md says what each means."""

from __future__ import annotations

from pymotor.telemetry.metrics import Registry

_QUERY_BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Figures:
    """Counters, each ready to be added to."""

    def __init__(self) -> None:
        registry = self.registry = Registry()

        self.batches = registry.counter(
            "pymotor_kv_conductor_batches_total", "Batches of events that were applied."
        ).child()
        self.events = registry.counter("pymotor_kv_conductor_events_total", "Events that were applied.").child()
        self.gaps = registry.counter(
            "pymotor_kv_conductor_gaps_total", "Times that batches of a publisher were missing."
        ).child()
        self.replays = registry.counter(
            "pymotor_kv_conductor_replays_total", "Times that a publisher was asked for what was missed."
        ).child()
        self.replays_failed = registry.counter(
            "pymotor_kv_conductor_replays_failed_total", "Of these the ones that had no answer to build on."
        ).child()
        self.restarts = registry.counter(
            "pymotor_kv_conductor_restarts_total", "Times that a publisher turned out to be another engine than before."
        ).child()
        self.dropped = registry.counter(
            "pymotor_kv_conductor_dropped_publishers_total", "Times that a publisher was left for what it sent."
        ).child()
        self._passed_over = registry.counter(
            "pymotor_kv_conductor_passed_over_total", "Blocks that were told of and are not in the index.", ("reason",)
        )
        self.queries = registry.counter(
            "pymotor_kv_conductor_queries_total", "Questions answered, in frames and over HTTP."
        ).child()
        self.query_seconds = registry.histogram(
            "pymotor_kv_conductor_query_seconds",
            "Seconds that each of these took to be answered, once it was read.",
            (),
            _QUERY_BOUNDS,
        ).child()
        self.routed_passed_over = registry.counter(
            "pymotor_kv_conductor_routed_passed_over_total",
            "Prompts that a Coordinator has sent somewhere, of which nothing is expected there.",
        ).child()
        self.connections = registry.gauge(
            "pymotor_kv_conductor_coordinator_connections", "Connections of Coordinators' workers."
        ).child()
        self._sources = registry.gauge(
            "pymotor_kv_conductor_sources", "Publishers of events, by how it stands with them.", ("standing",)
        )
        self.blocks = registry.gauge("pymotor_kv_conductor_blocks", "Different blocks in the index.").child()
        self.entries = registry.gauge(
            "pymotor_kv_conductor_entries", "Blocks in the index, each counted once for each publisher that told of it."
        ).child()
        self.refused = registry.gauge(
            "pymotor_kv_conductor_refused_blocks", "Blocks that were not taken because the index is full."
        ).child()
        self.memory = registry.gauge(
            "pymotor_kv_conductor_index_memory_bytes", "Bytes that the index takes, estimated."
        ).child()

    def set_sources(self, by_standing: dict[str, int]) -> None:
        """How many publishers there are of each standing."""
        for standing, number in by_standing.items():
            self._sources.child(standing).set(number)

    def set_passed_over(self, by_reason: dict[str, int]) -> None:
        """How many there have been for each reason."""
        for reason, number in by_reason.items():
            self._passed_over.child(reason).set(number)
