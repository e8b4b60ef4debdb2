"""The Controller's HTTP server: what nodes and Coordinators send, the token, probes, refusals.

The two messages are plain routes decoded by msgspec: every node and every Coordinator sends them all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pymotor.config import ConfigState
from pymotor.control_plane import ClusterToken
from pymotor.control_plane.token_gate import TokenGate
from pymotor.controller.leadership import NotLeadingError
from pymotor.controller.lease import LeaseError
from pymotor.controller.nodes import ReportRefused
from pymotor.controller.operations import OperationRefused, UnknownInstance
from pymotor.controller.operations_api import operations_routes
from pymotor.controller.passing_on import LeaderTLS, PassingOn
from pymotor.controller.service import ControllerService
from pymotor.fleet import ControllerRefusal, FleetWatch, NodeReport, decode_message, encode_message

LONGEST_BODY = 8 << 20
"""Bytes of one message."""

_PROBLEMS_TOLD = 5
"""Of a body that is not as it should be."""

_PROBES = ("/startup", "/readiness", "/liveness")


def controller_app(
    service: ControllerService,
    token: ClusterToken | None,
    config: Callable[[], ConfigState] | None = None,
    *,
    passes_on: bool = False,
    leader_tls: LeaderTLS | None = None,
) -> FastAPI:
    """Everything that the Controller answers; `config` tells which configuration is in force. `passes_on`: what it is
    asked while it stands by goes on to the leader, so it is ready then too; else it refuses. `leader_tls`: how the
    leader is known where the plane speaks TLS."""
    app = FastAPI(title="PyMotor Controller", openapi_url=None)
    if passes_on:
        app.add_middleware(
            PassingOn,
            leader=lambda: service.leadership.other,
            kept=_PROBES,
            longest_body=LONGEST_BODY,
            tls=leader_tls,
        )
    # Added last, so asked first.
    app.add_middleware(TokenGate, token=token, open_paths=_PROBES, refusal=_no_token)
    app.add_route("/nodes/report", _reports(service), methods=["POST"])
    app.add_route("/fleet/watch", _watches(service), methods=["POST"])
    app.include_router(operations_routes(service))
    _add_config(app, config)
    _add_probes(app, service, config, passes_on=passes_on)
    _add_refusals(app)
    return app


def refusal(status: int, error: str, leader: str = "") -> Response:
    """An answer that is not 2xx."""
    body = encode_message(ControllerRefusal(error=error, leader=leader))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(body, status, headers=headers, media_type="application/json")


def _no_token() -> Response:
    return refusal(401, "this needs the cluster token, or a certificate where the port speaks TLS")


def _reports(service: ControllerService) -> Callable[[Request], Awaitable[Response]]:
    async def report(request: Request) -> Response:
        message = decode_message(await _body(request), NodeReport)
        reply = await service.report(message, _broken(request))
        return Response(encode_message(reply), media_type="application/json")

    return report


def _watches(service: ControllerService) -> Callable[[Request], Awaitable[Response]]:
    async def watch(request: Request) -> Response:
        message = decode_message(await _body(request), FleetWatch)
        snapshot = await service.watch(message, _broken(request))
        return Response(status_code=204) if snapshot is None else Response(snapshot, media_type="application/json")

    return watch


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LONGEST_BODY:
            raise HTTPException(413, f"a message has at most {LONGEST_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _broken(request: Request) -> Callable[[], Awaitable[None]]:
    async def broken() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return broken


def _add_config(app: FastAPI, config: Callable[[], ConfigState] | None) -> None:
    @app.get("/config")
    async def state() -> Response:
        """Which `user_config.json` is in force, what waits for a restart, what is wrong."""
        if config is None:
            return refusal(404, "no configuration file is followed")
        return Response(msgspec.json.encode(config()), media_type="application/json")


def _add_probes(
    app: FastAPI, service: ControllerService, config: Callable[[], ConfigState] | None, *, passes_on: bool
) -> None:
    @app.get("/startup")
    @app.get("/liveness")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readiness")
    async def ready() -> Response:
        # Also while it listens: only those that can reach it are heard, and a Service passes on to who is ready.
        if service.leads:
            told = {"ready": True, "leader": service.leadership.url, "complete": service.ready}
            # What is wrong with it is told at /config, to who has the token.
            return JSONResponse({**told, "config_in_force": config is None or config().error is None})
        if passes_on and service.leadership.other:
            return JSONResponse({"ready": True, "leader": service.leadership.other, "stands_by": True})
        return refusal(503, "it does not lead", service.leadership.other)


def _in_words(problem: dict[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["loc"] == ("body",):
        return "the body is to be a JSON object, sent with the header Content-Type: application/json"
    return f"{where}: {problem['msg']}"


def _add_refusals(app: FastAPI) -> None:
    def refuse(kind: type[Exception], status: int) -> None:
        async def handler(_: Request, error: Exception) -> Response:
            return refusal(status, str(error))

        app.add_exception_handler(kind, handler)

    refuse(ReportRefused, 409)
    refuse(OperationRefused, 409)
    refuse(UnknownInstance, 404)
    refuse(msgspec.DecodeError, 400)
    refuse(LeaseError, 503)

    @app.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: RequestValidationError) -> Response:
        # Not its text: that repeats the whole body, and names our files.
        return refusal(422, "; ".join(map(_in_words, error.errors()[:_PROBLEMS_TOLD])))

    @app.exception_handler(NotLeadingError)
    async def not_leading(_: Request, error: NotLeadingError) -> Response:
        return refusal(503, str(error), error.leader)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, str(error.detail))
