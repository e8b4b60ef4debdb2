"""Signs of life for a stream whose first content is slow to come (`stream_keepalive`).

Some balancers in front of a gateway give up on a connection that stays silent. After so many seconds the client is
sent the head with status 200 and from then on a comment line, which clients of server-sent events pass over. The
price: a failure can then only be told as an error event, not by its status. Off by default.
"""

from __future__ import annotations

import asyncio

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.http.framing import chunk

_EVENT_STREAM = b"text/event-stream; charset=utf-8"
_COMMENT = b": waiting\n\n"


class Keepalive:
    """Runs from the start of a streamed request until its first content, its end, or `stop`."""

    def __init__(self, context: Context, seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self._timer: asyncio.TimerHandle = context.services.loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        context = self._context
        client = context.client
        if context.committed or client.closed:
            return
        comment = chunk(_COMMENT) if context.request.http_11 else _COMMENT
        if context.opened:
            client.write(comment)
        else:
            context.opened = True
            client.begin_stream(context.services.heads.stream(context.request, _EVENT_STREAM, ()), comment)
        self._timer = context.services.loop.call_later(self._seconds, self._tick)

    def stop(self) -> None:
        """No more comments."""
        self._timer.cancel()
