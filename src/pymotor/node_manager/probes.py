"""The NodeManager's own port: probes, and its report for whoever looks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from pymotor.config import ConfigState
from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.control_plane.client_certificate import shows_certificate
from pymotor.control_plane.tls import ServerTLS
from pymotor.fleet import encode_message
from pymotor.node_manager.manager import NodeManager


def probes_app(
    manager: NodeManager, token: ClusterToken | None, config: Callable[[], ConfigState] | None = None
) -> FastAPI:
    """`token`: has to be shown for the report and the state of the configuration, which `config` tells; None: everybody
    who can reach the port may read them."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def alive() -> Response:
        return _text(200, "ok")

    async def readiness() -> Response:
        return _text(200, "ready") if manager.ready else _text(503, "not all servers are ready")

    def refused(request: Request) -> Response | None:
        if token is None or shows_certificate(request.scope):
            return None
        if not token.accepts(request.headers.get("authorization")):
            return _text(401, "the cluster token has to be shown: Authorization: Bearer …")
        return None

    async def status(request: Request) -> Response:
        return refused(request) or Response(encode_message(manager.report()), media_type="application/json")

    async def configuration(request: Request) -> Response:
        if config is None:
            return _text(404, "no configuration file is followed")
        return refused(request) or Response(msgspec.json.encode(config()), media_type="application/json")

    for path in ("/health", "/liveness", "/startup"):
        app.add_api_route(path, alive)
    app.add_api_route("/readiness", readiness)
    app.add_api_route("/status", status)
    app.add_api_route("/config", configuration)
    return app


def probes_server(
    manager: NodeManager,
    token: ClusterToken | None,
    listening: socket.socket,
    config: Callable[[], ConfigState] | None = None,
    tls: ServerTLS | None = None,
) -> Callable[[], Awaitable[None]]:
    """What serves them until it is cancelled; closes the socket. `tls`: None for plain HTTP."""

    async def serve() -> None:
        server = AdminServer(probes_app(manager, token, config), tls=tls)
        serving = asyncio.create_task(server.serve_on(listening))
        try:
            await asyncio.shield(serving)
        finally:
            server.finish()
            await serving

    return serve


def _text(status: int, text: str) -> Response:
    return Response(f"{text}\n", status, media_type="text/plain; charset=utf-8")
