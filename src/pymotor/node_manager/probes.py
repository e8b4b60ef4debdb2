"""The NodeManager's own port: probes, and its report for whoever looks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.fleet import encode_message
from pymotor.node_manager.manager import NodeManager


def probes_app(manager: NodeManager, token: ClusterToken | None) -> FastAPI:
    """`token`: has to be shown for the report; None: everybody who can reach the port may read it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def alive() -> Response:
        return _text(200, "ok")

    async def readiness() -> Response:
        return _text(200, "ready") if manager.ready else _text(503, "not all servers are ready")

    async def status(request: Request) -> Response:
        if token is not None and not token.accepts(request.headers.get("authorization")):
            return _text(401, "the cluster token has to be shown: Authorization: Bearer …")
        return Response(encode_message(manager.report()), media_type="application/json")

    for path in ("/health", "/liveness", "/startup"):
        app.add_api_route(path, alive)
    app.add_api_route("/readiness", readiness)
    app.add_api_route("/status", status)
    return app


def probes_server(
    manager: NodeManager, token: ClusterToken | None, listening: socket.socket
) -> Callable[[], Awaitable[None]]:
    """What serves them until it is cancelled; closes the socket."""

    async def serve() -> None:
        server = AdminServer(probes_app(manager, token))
        serving = asyncio.create_task(server.serve_on(listening))
        try:
            await asyncio.shield(serving)
        finally:
            server.finish()
            await serving

    return serve


def _text(status: int, text: str) -> Response:
    return Response(f"{text}\n", status, media_type="text/plain; charset=utf-8")
