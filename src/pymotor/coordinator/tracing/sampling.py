"""Which requests are traced: parts of all, decided by the trace's id, so that everybody decides alike.

As OpenTelemetry's `ParentBased` sampler with `TraceIdRatioBased` ones: a trace is sampled when the lower 64 bits of its
id are below the ratio's share of all such numbers.
"""

from __future__ import annotations

from pymotor.coordinator.settings import TracingSettings
from pymotor.coordinator.tracing.trace_context import RemoteParent

_ALL = 1 << 64
_ABOVE_ALL = b"g"


class Sampler:
    """Decides by the ratios of `tracer_config`."""

    __slots__ = ("_sampled_parent", "_steps", "_unsampled_parent", "root_bound")

    def __init__(self, settings: TracingSettings) -> None:
        self.root_bound = _bound(settings.root_ratio)
        """Requests that come without a trace are traced when the lower half of their id, in hexadecimal digits, is
        below this."""
        self._sampled_parent = _bound(settings.sampled_parent_ratio)
        self._unsampled_parent = _bound(settings.unsampled_parent_ratio)
        self._steps = _bound(settings.steps_ratio)

    def samples(self, parent: RemoteParent) -> bool:
        """Whether a request that came with a trace is traced."""
        return parent.trace_id[16:] < (self._sampled_parent if parent.sampled else self._unsampled_parent)

    def samples_steps(self, trace_id: bytes) -> bool:
        """Whether the steps of a request that is traced are, too."""
        return trace_id[16:] < self._steps


def _bound(ratio: float) -> bytes:
    """The first number that is not sampled, in hexadecimal digits, which compare as numbers do."""
    bound = round(ratio * _ALL)
    return b"%016x" % bound if bound < _ALL else _ABOVE_ALL
