"""What operators ask a proxy for at its own port: how it is, engines to add and remove, caches, profiles, figures."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from urllib.parse import parse_qs

import msgspec

from pymotor.coordinator.admin import Overview
from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.control import OperatorReply, OperatorRequest
from pymotor.coordinator.metric_views import View
from pymotor.coordinator.proxy.access import Access, Refused
from pymotor.coordinator.proxy.addresses import Address, AddressError, address_from
from pymotor.coordinator.proxy.broadcast import Broadcast, failed
from pymotor.coordinator.proxy.member import Member, Phase
from pymotor.coordinator.proxy.static_fleet import NotInFleetError, StaticFleet
from pymotor.fleet import InstanceState, Role

_KINDS = {"encode": Role.ENCODE, "prefill": Role.PREFILL, "decode": Role.DECODE, "pd": Role.UNION, "union": Role.UNION}
"""The `type` of instances to add or remove."""
_COUNTED = {Role.ENCODE: "encode", Role.PREFILL: "prefill", Role.DECODE: "decode", Role.UNION: "pd"}
"""How replies name the roles: `prefill_instances`, `current_prefill_instances`."""
_PROFILED = {Role.ENCODE: "encoder", Role.PREFILL: "prefill", Role.DECODE: "decoder", Role.UNION: "pds"}
"""How replies to profile requests name them: `prefill_0`."""
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Answer = Callable[[OperatorRequest], Awaitable[OperatorReply]]


class _Change(msgspec.Struct):
    type: str
    instances: str | list[str]


_AT_ONCE = 256
"""Instances that one request may name."""
_change_decoder = msgspec.json.Decoder(_Change)


class Operations:
    """The `Operator` of a proxy."""

    def __init__(self, fleet: StaticFleet, access: Access, key: str, obstacle: Callable[[Role, Address], str]) -> None:
        """`key` is the engines' `--api-key`; `obstacle` says why something cannot be an engine of a role here, or
        nothing."""
        self._fleet = fleet
        self._access = access
        self._broadcast = Broadcast(key)
        self._obstacle = obstacle
        self._overview: Overview
        self._open: dict[str, tuple[str, Answer]] = {
            "/healthcheck": ("GET", self._healthcheck),
            "/health": ("GET", self._health),
        }
        self._guarded: dict[str, tuple[str, Answer]] = {
            "/instances": ("GET", self._instances),
            "/instances/add": ("POST", self._add),
            "/instances/remove": ("POST", self._remove),
            "/metrics": ("GET", self._metrics),
            "/reset_prefix_cache": ("POST", self._reset_prefix_cache),
            "/start_profile": ("POST", self._profile),
            "/stop_profile": ("POST", self._profile),
        }
        self.paths = (*self._open, *self._guarded)

    @contextlib.asynccontextmanager
    async def attended(self, overview: Overview) -> AsyncIterator[None]:
        """See `Operator`."""
        self._overview = overview
        self._fleet.in_flight = overview.in_flight
        draining = asyncio.create_task(self._fleet.forget_drained())
        try:
            async with self._broadcast.ready():
                yield
        finally:
            draining.cancel()
            await asyncio.wait([draining])

    async def answer(self, request: OperatorRequest) -> OperatorReply:
        """See `Operator`."""
        method, answer = self._open.get(request.path) or self._guarded[request.path]
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            return _reply(405, {"error": f"use {method}"}, f"Allow: {method}\r\n")
        if request.path in self._guarded:
            try:
                self._access.check(request)
            except Refused as refusal:
                challenge = "WWW-Authenticate: Bearer\r\n" if refusal.status == 401 else ""
                return _reply(refusal.status, {"error": str(refusal)}, challenge)
        try:
            return await answer(request)
        except _Wrong as wrong:
            return _reply(wrong.status, {"error": str(wrong)})

    # -- how it is

    async def _healthcheck(self, _request: OperatorRequest) -> OperatorReply:
        ready = self._overview.readiness()
        serving = Counter(one.role for one in self._overview.instances if one.serves)
        counts = {f"{name}_instances": serving[role] for role, name in _COUNTED.items()}
        found: dict[str, object] = {"status": "ok" if ready.ready else "unavailable", **counts}
        found["request_num"] = self._requests()
        if not ready.ready:
            found["missing"] = ready.missing
        return _reply(200 if ready.ready else 503, found)

    def _requests(self) -> int:
        """Requests under way: each holds one decode or union engine, or what stands in for it, from its start to its
        end, and a pair holds its prefill engine beside."""
        held: Counter[Role] = Counter()
        for instance in self._overview.instances:
            held[instance.role] += sum(self._overview.in_flight(endpoint.id) for endpoint in instance.endpoints)
        return held[Role.UNION] + max(held[Role.DECODE], held[Role.PREFILL])

    async def _health(self, _request: OperatorRequest) -> OperatorReply:
        clusters = {f"{name}_cluster": self._cluster(role) for role, name in _COUNTED.items()}
        well = self._overview.answers and "unhealthy" not in clusters.values()
        status = {"status": "ok" if well else "unhealthy", "proxy": "healthy", **clusters}
        return _reply(200 if well else 503, status)

    def _cluster(self, role: Role) -> str:
        states = [one.state for one in self._overview.instances if one.role is role]
        if set(states) <= {InstanceState.DRAINING}:
            return "empty"
        return "healthy" if InstanceState.ACTIVE in states else "unhealthy"

    async def _instances(self, _request: OperatorRequest) -> OperatorReply:
        return OperatorReply(body=self._overview.fleet().model_dump_json().encode())

    async def _metrics(self, request: OperatorRequest) -> OperatorReply:
        asked = parse_qs(request.query).get("type")
        try:
            view = View(asked[0]) if asked else None
        except ValueError as error:
            raise _Wrong(400, f"no such view; type is one of {', '.join(View)}") from error
        text = await self._overview.metrics(view)
        return OperatorReply(body=text.encode(), content_type=_METRICS_TYPE)

    # -- engines come and go

    async def _add(self, request: OperatorRequest) -> OperatorReply:
        role, addresses = self._change(request)
        for address in addresses:
            obstacle = self._obstacle(role, address)
            if obstacle:
                return _reply(400, {"error": obstacle})
        added = self._fleet.add(role, addresses)
        words = [f"{_named(added)} get requests as soon as they answer"] if added else []
        known = [address for address in addresses if address not in added]
        words += [f"{_named(known)} are there already"] if known else []
        return await self._changed("; ".join(words))

    async def _remove(self, request: OperatorRequest) -> OperatorReply:
        role, addresses = self._change(request)
        try:
            removed = self._fleet.remove(role, addresses)
        except NotInFleetError as error:
            return _reply(404, {"error": f"{error}; none was removed", **self._current()})
        return await self._changed(f"{_named(removed)} get no new requests and finish what they have")

    def _change(self, request: OperatorRequest) -> tuple[Role, list[Address]]:
        """Which engines of which role. Raises `_Wrong`."""
        # A page in a browser cannot send this type to another origin unasked.
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise _Wrong(415, "the Content-Type must be application/json")
        try:
            change = _change_decoder.decode(request.body)
        except UNREADABLE as error:
            raise _Wrong(
                400, f'the body must be like {{"type": "decode", "instances": ["host:port"]}}: {error}'
            ) from error
        role = _KINDS.get(change.type)
        if role is None:
            raise _Wrong(400, f"unknown type {change.type[:100]!r}; use one of {', '.join(_KINDS)}")
        texts = [change.instances] if isinstance(change.instances, str) else change.instances
        if not texts:
            raise _Wrong(400, "instances is empty")
        if len(texts) > _AT_ONCE:
            raise _Wrong(400, f"{len(texts)} instances are too many for one request; {_AT_ONCE} are allowed")
        try:
            return role, list(dict.fromkeys(map(address_from, texts)))
        except AddressError as error:
            raise _Wrong(400, f"instances: {error}") from error

    async def _changed(self, message: str) -> OperatorReply:
        # Workers hear of the change before the client does: they get both in this order.
        await self._fleet.told()
        return _reply(200, {"message": message, **self._current()})

    def _current(self) -> dict[str, list[str]]:
        return {
            f"current_{name}_instances": [str(address) for address in self._fleet.addresses(role)]
            for role, name in _COUNTED.items()
        }

    # -- all engines at once

    async def _reset_prefix_cache(self, request: OperatorRequest) -> OperatorReply:
        results = await self._broadcast.post(self._present(), request.path, request.query)
        troubles = {str(member.address): trouble for member, found in results if (trouble := failed(found))}
        if troubles:
            return _reply(500, {"failed": list(troubles), "reasons": troubles})
        return _reply(200, {"message": f"{len(results)} instances have an empty prefix cache"})

    async def _profile(self, request: OperatorRequest) -> OperatorReply:
        results = await self._broadcast.post(self._present(), request.path, request.query)
        numbers: Counter[Role] = Counter()
        replies: dict[str, object] = {}
        for member, found in results:
            replies[f"{_PROFILED[member.role]}_{numbers[member.role]}"] = found
            numbers[member.role] += 1
        return _reply(500 if any(failed(found) for _, found in results) else 200, replies)

    def _present(self) -> list[Member]:
        return [member for member in self._fleet.members() if member.phase is not Phase.LEAVING]


class _Wrong(Exception):
    """The request is refused with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _named(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses))


def _reply(status: int, content: object, header_lines: str = "") -> OperatorReply:
    return OperatorReply(status=status, body=msgspec.json.encode(content), header_lines=header_lines.encode())
