"""Computing without numbers: as many blocks, as much work, the same events, and no content."""

from __future__ import annotations

from pymotor.engines.sim.computing import Computing
from pymotor.engines.sim.requests import Request
from pymotor.engines.sim.times import Work


class LengthComputing(Computing):
    """Counts positions only. For prompts without media, and without KV of other engines."""

    def adopt(self, request: Request, positions: int) -> None:
        """See `Computing`."""
        if positions > request.computed:
            self._remember(request, request.computed, positions)
            request.computed = positions

    def compute(self, request: Request, count: int, work: Work) -> None:
        """See `Computing`."""
        if count == 0:
            return
        start = request.computed
        if count == 1 and start >= len(request.tokens):
            work.decode_sequences += 1
            work.decode_context_tokens += start
        else:
            work.prefill_tokens += count
        request.computed = start + count
        self._remember(request, start, request.computed)
