"""Prefill's bootstrap server, where the decode engines of the paired dialect learn whom to ask.

vLLM's MooncakeConnector answers `GET /query` with engine id and address of each data parallel rank, SGLang's server
`GET /route` with the address of one rank.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pymotor.engines.sim.exchange import Exchange, Receive, Send
from pymotor.engines.sim.transport import HTTPServer


class BootstrapServer:
    """Says where this engine hands KV over."""

    def __init__(self, engine_id: str, worker: tuple[str, int]) -> None:
        host, port = worker
        query = {"0": {"engine_id": engine_id, "worker_addr": {"0": {"0": f"tcp://{host}:{port}"}}}}
        self._replies = {
            "/query": msgspec.json.encode(query),
            "/route": msgspec.json.encode({"rank_ip": host, "rank_port": port}),
            "/health": b'"OK"',
        }
        self._server = HTTPServer(self)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (a free one for port 0). Raises `OSError` when it is taken."""
        return await self._server.listen(host, port)

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._server.close()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request."""
        exchange = Exchange(scope, receive, send)
        reply = self._replies.get(exchange.path) if exchange.method == "GET" else None
        if reply is None:
            await exchange.respond(b'{"detail":"Not Found"}', 404)
        else:
            await exchange.respond(reply)
