"""Requests of the gateway's own whose replies are small: a question to a bootstrap server, a callback passed on."""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.http.exchange import StaleConnection
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.http.upstream_pool import UpstreamPool

_CONNECT_SECONDS = 5.0


async def get(pool: UpstreamPool, path: bytes, seconds: float) -> WholeReply:
    """GET `path` of the server behind `pool`; its whole reply within `seconds`. Raises `UpstreamError`."""
    return await _ask(pool, b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, pool.authority), seconds)


async def post(pool: UpstreamPool, path: bytes, body: bytes, seconds: float) -> WholeReply:
    """POST JSON likewise."""
    head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
        path,
        pool.authority,
        len(body),
    )
    return await _ask(pool, head + body, seconds)


async def _ask(pool: UpstreamPool, request: bytes, seconds: float) -> WholeReply:
    connection = pool.take_idle()
    while True:
        if connection is None:
            connection = await pool.connect(_CONNECT_SECONDS)
        reply = WholeReply(asyncio.get_running_loop().create_future())
        ends = monotonic() + seconds
        connection.send((request,), reply, first_byte_by=ends, idle_seconds=seconds, whole_by=ends)
        try:
            await reply.done
        except StaleConnection:
            # A kept-alive connection was closed before the request came; on a new one this cannot happen.
            connection = None
            continue
        except BaseException:
            connection.abandon(reply)
            raise
        return reply
