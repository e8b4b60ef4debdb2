"""Traces of one worker, put together by its settings."""

from __future__ import annotations

from collections.abc import Callable

from pymotor.coordinator.settings import TracingSettings
from pymotor.coordinator.tracing.tracer import Tracer
from pymotor.telemetry.metrics import Registry


class Tracing:
    """`close` it. Where tracing is off nothing that exports is loaded."""

    def __init__(self, settings: TracingSettings, worker: int, registry: Registry, *, scheme: str) -> None:
        """`worker` is its number, `scheme` what clients speak: http or https."""
        self.tracer: Tracer | None = None
        """None: tracing is off."""
        self._close: Callable[[], None] = lambda: None
        if settings.endpoint:
            from pymotor.coordinator.tracing.exporting import otlp_export

            export = otlp_export(settings.endpoint, worker, registry)
            self.tracer = Tracer(settings, export, scheme)
            self._close = export.close

    def use(self, settings: TracingSettings) -> None:
        """Requests that begin from now on are sampled by these ratios; the endpoint stays."""
        if self.tracer is not None:
            self.tracer.use(settings)

    def close(self) -> None:
        """Send what waits."""
        self._close()
