"""The Controller's observability API: inventory and alarms, for management platforms that ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.client_certificate import shows_certificate
from pymotor.control_plane.token_gate import TokenGate
from pymotor.controller.alarm_records import record_from
from pymotor.controller.alarms import AlarmLog
from pymotor.controller.faults.view import FleetView
from pymotor.controller.inventory import inventory

LONGEST_RECORD = 64 * 1024
"""Bytes of a record that is posted."""


def observability_app(
    log: AlarmLog,
    view: Callable[[], FleetView],
    *,
    variables: Mapping[str, str],
    leads: Callable[[], bool],
    token: ClusterToken | None,
) -> FastAPI:
    """The application for `observability_api_port`.

    `view` takes a look at the fleet; `variables`: the environment; `leads`: whether this Controller is the leader,
    since another has nothing to tell and answers 503; `token`: shown by who adds alarms, and by who reads on another
    machine without a certificate of the plane.
    """
    app = FastAPI(title="PyMotor Controller observability", docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(
        TokenGate,
        token=token,
        open_paths=("/observability/add_alarm",),
        refusal=lambda: _refusal(401, "this needs the cluster token: 'Authorization: Bearer TOKEN'"),
        near=True,
    )

    @app.get("/observability/inventory")
    async def get_inventory() -> JSONResponse:
        if not leads():
            return _not_leader()
        return _answer(inventory(view(), variables, log.now))

    @app.get("/observability/alarms")
    async def get_alarms(
        source_id: str = "",  # noqa: ARG001  readers name themselves; all get the same
        after: Annotated[int | None, Query(ge=0)] = None,
    ) -> JSONResponse:
        if not leads():
            return _not_leader()
        reading = log.read(after)
        records = msgspec.to_builtins(reading.records)
        # A list in a list, as older versions have it.
        alarms = [records] if records else []
        return _answer({"total": len(alarms), "alarms": alarms, "first": reading.first, "last": reading.last})

    app.include_router(alarm_intake(log, leads=leads, token=token))
    return app


def alarm_intake(log: AlarmLog, *, leads: Callable[[], bool], token: ClusterToken | None) -> APIRouter:
    """`POST /observability/add_alarm`, by which other parts add a record; it is on the management port too.

    400 for what is no record, 401 without the token, 413 for more than 64 KiB, 503 where this is not the leader.
    """
    router = APIRouter()

    @router.post("/observability/add_alarm")
    async def add_alarm(request: Request, authorization: Annotated[str | None, Header()] = None) -> JSONResponse:
        if token is not None and not shows_certificate(request.scope) and not token.accepts(authorization):
            return _refusal(401, "the cluster token is missing or wrong")
        if not leads():
            return _not_leader()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_RECORD:
                return _refusal(413, f"an alarm has at most {LONGEST_RECORD} bytes")
        try:
            record = record_from(bytes(body), log.now)
        except (ValueError, RecursionError) as error:  # msgspec's errors are of the first kind
            return _refusal(400, str(error))
        log.add(record)
        return _answer({})

    return router


def _answer(data: Any) -> JSONResponse:
    return JSONResponse({"code": 200, "message": "Success", "data": data})


def _not_leader() -> JSONResponse:
    return _refusal(503, "this Controller is not the leader")


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"code": status, "message": message, "data": {}}, status_code=status)
