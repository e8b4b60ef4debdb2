"""Traces on their way to a collector: a thread makes their spans and sends them by OTLP, so that no request waits.

What finds no room in the queue, what the collector does not take and what is left at the end is dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from typing import Protocol

from pymotor.coordinator.tracing.collector_client import CollectorClient, NotTaken
from pymotor.coordinator.tracing.collector_settings import DELAY, collector_settings
from pymotor.coordinator.tracing.otlp import Attributes, ExportRequests
from pymotor.coordinator.tracing.partial_success import PartialSuccess
from pymotor.coordinator.tracing.resource import resource
from pymotor.coordinator.tracing.spans import encoded_spans
from pymotor.coordinator.tracing.tracer import FinishedRequest
from pymotor.telemetry.metrics import Counter, Registry

logger = logging.getLogger(__name__)

QUEUED = 2048
"""Traces that may wait."""
_AT_ONCE = 128
_END_SECONDS = 2.0
_SCOPE = "pymotor.coordinator"
_LONGEST_MESSAGE = 300


class Sender(Protocol):
    """Who sends, in the export's thread."""

    def send(self, request: bytes) -> PartialSuccess | None:
        """Have an `ExportTraceServiceRequest` taken; returns what there is against it all the same. Raises
        `NotTaken`."""

    def give_up(self) -> None:
        """Try nothing again from now on. From any thread."""

    def close(self) -> None:
        """End the connection."""


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
        self, sender: Sender, resource: Attributes, registry: Registry, where: str, delay: float = DELAY
    ) -> None:
        """`where` the traces go, as the log may say it; for `delay` seconds they are collected before they are sent
        together."""
        self._delay = min(delay, threading.TIMEOUT_MAX)
        self._sender = sender
        self._requests = ExportRequests(resource, _SCOPE)
        self._where = where
        self.outcomes = outcome_counter(registry)
        self._queue: queue.SimpleQueue[FinishedRequest | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        """A batch is full, or the end has come. A thread that waits for this, and not for the queue, is not woken for
        each trace."""
        self._ending = False
        self._failing = False
        self._complained = False
        self._told_unencodable = False
        self._taken = 0
        """Traces in the thread's hands."""
        self._over = False
        # A collector that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._send_all, name="traces", daemon=True)
        self._thread.start()

    def put(self, finished: FinishedRequest) -> None:
        """See `Exporting`."""
        waiting = self._queue.qsize()
        if waiting >= QUEUED:
            self._count("queue_full", 1)
            return
        self._queue.put(finished)
        if waiting >= _AT_ONCE:
            self._hurry.set()

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        self._queue.put(None)
        self._ending = True
        self._hurry.set()
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._over = True
            self._count("ended", self._taken + max(0, self._queue.qsize() - 1))
            self._sender.give_up()

    def _count(self, outcome: str, traces: int) -> None:
        if traces:
            self.outcomes.child(outcome).add(traces)

    def _send_all(self) -> None:
        more = True
        try:
            while more:
                batch, more = self._batch()
                self._taken = len(batch)
                if batch and not self._over:
                    self._send_or_tell(batch)
                self._taken = 0
        finally:
            self._sender.close()

    def _send_or_tell(self, batch: list[FinishedRequest]) -> None:
        try:
            self._send(batch)
        except Exception:
            # The next batch may be better, and without the thread there would be none.
            logger.exception("%d traces cannot be sent, for no reason foreseen", self._taken)
            if not self._over:
                self._count("export_failed", self._taken)

    def _batch(self) -> tuple[list[FinishedRequest], bool]:
        """What has come within a moment, and whether there will be more."""
        first = self._queue.get()
        if first is None:
            return [], False
        self._hurry.wait(self._delay)
        batch = [first]
        with contextlib.suppress(queue.Empty):
            while len(batch) < _AT_ONCE:
                found = self._queue.get_nowait()
                if found is None:
                    return batch, False
                batch.append(found)
        if self._queue.qsize() < _AT_ONCE:
            self._hurry.clear()
            if self._ending:
                self._hurry.set()
        return batch, True

    def _send(self, batch: list[FinishedRequest]) -> None:
        spans = [span for finished in batch for span in self._encoded(finished)]
        if not spans:
            return
        request = self._requests.of(spans)
        complaint: PartialSuccess | None = None
        refusal = ""
        try:
            complaint = self._sender.send(request)
        except NotTaken as why:
            refusal = str(why)
        if self._over:
            # They were counted as dropped when nobody could wait for them any more.
            return
        self._count("export_failed" if refusal else "exported", self._taken)
        if refusal:
            self._tell_refusal(refusal)
            return
        if self._failing:
            logger.info("%s takes traces again", self._where)
        self._failing = False
        self._tell_complaint(complaint)

    def _encoded(self, finished: FinishedRequest) -> list[bytes]:
        """Its spans. A trace that has none is counted as failed, and is in nobody's hands any more."""
        try:
            return encoded_spans(finished)
        except Exception:
            # Whatever is wrong with one trace is nothing of the others.
            if not self._told_unencodable:
                self._told_unencodable = True
                logger.exception("a trace cannot be made into spans, it is dropped; this is told once")
        if not self._over:
            self._taken -= 1
            self._count("export_failed", 1)
        return []

    def _tell_refusal(self, why: str) -> None:
        if not self._failing:
            logger.error(
                "%s does not take traces (%s); they are dropped, and counted in pymotor_traces_total, until it does. "
                "See that tracer_config.endpoint names an OTLP receiver (http/protobuf)",
                self._where,
                why,
            )
        self._failing = True

    def _tell_complaint(self, complaint: PartialSuccess | None) -> None:
        if complaint is not None and not self._complained:
            self._complained = True
            logger.warning(
                "%s takes traces, but has rejected %d spans of a batch and says %r; this is told once",
                self._where,
                complaint.rejected,
                complaint.message[:_LONGEST_MESSAGE],
            )


def otlp_export(endpoint: str, worker: int, registry: Registry) -> TraceExport:
    """An export to the collector at `endpoint`, a URL with or without the path. Certificates, headers, time-out and
    compression are as the environment says by OpenTelemetry's variables; `checks` tells what is wrong with them."""
    settings, _ = collector_settings(endpoint, os.environ)
    sender = CollectorClient(settings)
    return TraceExport(sender, resource(worker, os.environ), registry, settings.where, settings.delay)
