"""What operators ask over HTTP: who is there, what happened, drain, cordon, restart, remove, scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from pymotor.controller.events import KEPT
from pymotor.controller.operations import Operations, UnknownInstance
from pymotor.controller.service import ControllerService
from pymotor.controller.views import (
    InstanceView,
    NodeView,
    RoleScale,
    instance_view,
    instance_views,
    node_views,
    scale_views,
)
from pymotor.fleet import Role


class Asked(BaseModel):
    """The body of an operation."""

    model_config = ConfigDict(extra="forbid")


class AskedWhy(Asked):
    """An operation with a reason."""

    reason: str = ""


class AskedDrain(AskedWhy):
    """An operation that begins with a drain."""

    limit_seconds: float | None = Field(None, ge=0, allow_inf_nan=False)
    """How long running requests may take; None: as the configuration says."""


class AskedForced(AskedDrain):
    """A restart or a removal."""

    force: bool = False
    """Also of the last active instance of its role."""


class AskedRole(AskedForced):
    """Another role for the instance's nodes."""

    role: Role


class AskedScale(Asked):
    """How many instances of a role are wanted."""

    role: Role
    to: int = Field(ge=0, le=100_000)


class FleetView(BaseModel):
    """The answer to `GET /instances`."""

    epoch: int
    version: int
    complete: bool
    instances: list[InstanceView]


class ScaleView(BaseModel):
    """The answer to `GET /scale` and `POST /scale`."""

    roles: list[RoleScale]


class WholeView(FleetView):
    """The answer to `GET /fleet`: all of it at one moment."""

    nodes: list[NodeView]
    roles: list[RoleScale]


def operations_routes(service: ControllerService) -> APIRouter:
    """The routes."""
    router = APIRouter()
    _add_reading(router, service)
    _add_operations(router, service)
    return router


def _add_reading(router: APIRouter, service: ControllerService) -> None:
    @router.get("/instances")
    async def instances() -> FleetView:
        book = service.term().state.book
        return FleetView(
            epoch=book.epoch,
            version=book.version,
            complete=not book.listening,
            instances=instance_views(book, service.now()),
        )

    @router.get("/fleet")
    async def fleet() -> WholeView:
        book, now = service.term().state.book, service.now()
        return WholeView(
            epoch=book.epoch,
            version=book.version,
            complete=not book.listening,
            instances=instance_views(book, now),
            nodes=node_views(book, now),
            roles=scale_views(book),
        )

    @router.get("/instances/{name}")
    async def instance(name: str) -> InstanceView:
        return _one(service, name)

    @router.get("/nodes")
    async def nodes() -> list[NodeView]:
        return node_views(service.term().state.book, service.now())

    @router.get("/scale")
    async def scale() -> ScaleView:
        return ScaleView(roles=scale_views(service.term().state.book))

    @router.get("/events")
    async def events(after: int = 0, limit: Annotated[int, Query(ge=1, le=KEPT)] = 1000) -> Response:
        # A standby has a history as well; that of the leader is the one that counts.
        service.term()
        body = {"newest": service.history.newest, "events": service.history.after(after, limit)}
        return Response(msgspec.json.encode(body), media_type="application/json")


def _add_operations(router: APIRouter, service: ControllerService) -> None:
    async def operate(name: str, action: Callable[[Operations, float], None]) -> InstanceView:
        term = service.term()
        action(term.operations, service.now())
        await service.done(term)
        return _one(service, name)

    @router.post("/instances/{name}/drain")
    async def drain(name: str, asked: AskedDrain) -> InstanceView:
        return await operate(
            name, lambda operations, now: operations.drain(name, now, limit=asked.limit_seconds, why=asked.reason)
        )

    @router.post("/instances/{name}/undrain")
    async def undrain(name: str) -> InstanceView:
        return await operate(name, lambda operations, now: operations.undrain(name, now))

    @router.post("/instances/{name}/cordon")
    async def cordon(name: str, asked: AskedWhy) -> InstanceView:
        return await operate(name, lambda operations, now: operations.cordon(name, now, why=asked.reason))

    @router.post("/instances/{name}/uncordon")
    async def uncordon(name: str) -> InstanceView:
        return await operate(name, lambda operations, now: operations.uncordon(name, now))

    @router.post("/instances/{name}/restart")
    async def restart(name: str, asked: AskedForced) -> InstanceView:
        return await operate(
            name,
            lambda operations, now: operations.restart(
                name, now, limit=asked.limit_seconds, why=asked.reason, force=asked.force
            ),
        )

    @router.post("/instances/{name}/remove")
    async def remove(name: str, asked: AskedForced) -> InstanceView:
        return await operate(
            name,
            lambda operations, now: operations.remove(
                name, now, limit=asked.limit_seconds, why=asked.reason, force=asked.force
            ),
        )

    @router.post("/instances/{name}/role")
    async def role(name: str, asked: AskedRole) -> InstanceView:
        return await operate(
            name,
            lambda operations, now: operations.switch_role(
                name, asked.role, now, limit=asked.limit_seconds, why=asked.reason, force=asked.force
            ),
        )

    @router.post("/scale")
    async def scale(asked: AskedScale) -> ScaleView:
        term = service.term()
        term.operations.scale(asked.role, asked.to, service.now())
        await service.done(term)
        return ScaleView(roles=scale_views(term.state.book))


def _one(service: ControllerService, name: str) -> InstanceView:
    book = service.term().state.book
    group = book.groups.get(name)
    if group is None:
        raise UnknownInstance(f"there is no instance {name!r}")
    return instance_view(book, group, service.now())
