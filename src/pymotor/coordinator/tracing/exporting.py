"""Traces on their way to a collector: a thread makes their spans and sends them by OTLP, so that no request waits.

What finds no room in the queue, what the collector does not take and what is left at the end is dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Mapping
from time import monotonic
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from pymotor.coordinator.tracing.spans import SpanMaker
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.telemetry.metrics import Counter, Registry

logger = logging.getLogger(__name__)

SERVICE = "pymotor-coordinator"
QUEUED = 2048
"""Traces that may wait."""
_AT_ONCE = 128
DELAY = 1.0
_DELAY_VARIABLE = "OTEL_BSP_SCHEDULE_DELAY"
_END_SECONDS = 2.0
_PATH = "/v1/traces"
_EXPORTER_LOG = "opentelemetry.exporter"


def outcome_counter(registry: Registry) -> Counter:
    """Counts traces."""
    return registry.counter(
        "pymotor_traces_total",
        "Traces by what became of them: exported, or dropped: queue_full, export_failed, ended.",
        ("outcome",),
    )


class TraceExport:
    """Takes traces and has them sent; `close` it."""

    def __init__(
        self, exporter: SpanExporter, resource: Resource, registry: Registry, where: str, delay: float = DELAY
    ) -> None:
        """`where` the traces go, as the log may say it; for `delay` seconds they are collected before they are sent
        together."""
        self._delay = delay
        self._exporter = exporter
        self._maker = SpanMaker(resource)
        self._where = where
        self.outcomes = outcome_counter(registry)
        self._queue: queue.SimpleQueue[FinishedRequest | None] = queue.SimpleQueue()
        self._failing = False
        self._taken = 0
        """Traces in the thread's hands."""
        self._over = False
        # A collector that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._send_all, name="traces", daemon=True)
        self._thread.start()

    def put(self, finished: FinishedRequest) -> None:
        """See `Exporting`."""
        if self._queue.qsize() < QUEUED:
            self._queue.put(finished)
        else:
            self._count("queue_full", 1)

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        self._queue.put(None)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._over = True
            self._count("ended", self._taken + max(0, self._queue.qsize() - 1))
        self._exporter.shutdown()

    def _count(self, outcome: str, traces: int) -> None:
        if traces:
            self.outcomes.child(outcome).add(traces)

    def _send_all(self) -> None:
        more = True
        while more:
            batch, more = self._batch()
            self._taken = len(batch)
            if batch and not self._over:
                try:
                    self._send(batch)
                except Exception:
                    # The next batch may be better, and without the thread there would be none.
                    logger.exception("%d traces cannot be made, for no reason foreseen", len(batch))
                    self._count("export_failed", len(batch))
            self._taken = 0

    def _batch(self) -> tuple[list[FinishedRequest], bool]:
        """What has come within a moment, and whether there will be more."""
        first = self._queue.get()
        if first is None:
            return [], False
        batch = [first]
        ends = monotonic() + self._delay
        with contextlib.suppress(queue.Empty):
            while len(batch) < _AT_ONCE:
                found = self._queue.get(timeout=max(0.0, ends - monotonic()))
                if found is None:
                    return batch, False
                batch.append(found)
        return batch, True

    def _send(self, batch: list[FinishedRequest]) -> None:
        spans = [span for finished in batch for span in self._maker.spans(finished)]
        sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        if self._over:
            # They were counted as dropped when nobody could wait for them any more.
            return
        self._count("exported" if sent else "export_failed", len(batch))
        if not sent and not self._failing:
            logger.error(
                "%s does not take traces; they are dropped, and counted in pymotor_traces_total, until it does. See "
                "that tracer_config.endpoint names an OTLP receiver (http/protobuf)",
                self._where,
            )
        if sent and self._failing:
            logger.info("%s takes traces again", self._where)
        self._failing = not sent


def otlp_export(endpoint: str, worker: int, registry: Registry) -> TraceExport:
    """An export to the collector at `endpoint`, a URL with or without the path. Certificates, headers, time-out and
    compression are as the environment says by OpenTelemetry's variables."""
    # It tells of each batch that fails, with what the collector said.
    logging.getLogger(_EXPORTER_LOG).setLevel(logging.CRITICAL)
    url = traces_url(endpoint)
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    told = os.environ.get(_DELAY_VARIABLE, "")
    delay = int(told) / 1000 if told.isdecimal() else DELAY
    return TraceExport(OTLPSpanExporter(endpoint=url), resource(worker, os.environ), registry, where, delay)


def traces_url(endpoint: str) -> str:
    """Where OTLP over HTTP takes traces: the path of the protocol where the URL has none."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else parts._replace(path=_PATH).geturl()


def resource(worker: int, environment: Mapping[str, str]) -> Resource:
    """Who speaks: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before what is set here."""
    found = Resource.create({"service.instance.id": f"{socket.gethostname()}-worker-{worker}"})
    if "OTEL_SERVICE_NAME" in environment or SERVICE_NAME in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return found
    return found.merge(Resource({SERVICE_NAME: SERVICE}))
