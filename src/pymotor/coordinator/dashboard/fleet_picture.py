"""The fleet at one moment, for the dashboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pymotor.coordinator.admin import EndpointReport, FleetReport, InstanceReport
from pymotor.coordinator.dashboard.engine_watch import Said


class EndpointPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One engine server; None: it does not say, or has not been asked yet."""

    id: str
    state: str
    in_flight: int
    load_tokens: float
    running: int | None
    waiting: int | None
    kv_usage: float | None
    """Part of its KV cache, 0 to 1."""


class InstancePicture(msgspec.Struct, frozen=True, kw_only=True):
    """One tile: its endpoints together."""

    name: str
    role: str
    state: str
    fault: str
    engine: str
    engine_version: str
    models: Sequence[str]
    in_flight: int
    load_tokens: float
    running: int | None
    waiting: int | None
    kv_usage: float | None
    """The mean of its endpoints."""
    endpoints: Sequence[EndpointPicture]


class FleetPicture(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /dashboard/fleet`."""

    time: float
    """Seconds since 1970."""
    ready: bool
    models: Sequence[str]
    missing: Sequence[str]
    degraded: Sequence[str]
    workers: int
    workers_listening: int
    connected: bool | None
    """Whether the Controller is heard; None where none is asked for the fleet."""
    in_flight: int
    load_tokens: float
    queued: int
    requests_per_second: float
    """All of the newest point of the series."""
    failed_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    tokens_per_second: float | None
    instances: Sequence[InstancePicture]


def instance_pictures(report: FleetReport, said: Mapping[str, Said]) -> list[InstancePicture]:
    """Every instance of the report, with what its engines say."""
    return [_instance(one, said) for one in report.instances]


def _instance(report: InstanceReport, said: Mapping[str, Said]) -> InstancePicture:
    endpoints = [_endpoint(one, said.get(one.id)) for one in report.endpoints]
    usages = [one.kv_usage for one in endpoints if one.kv_usage is not None]
    return InstancePicture(
        name=report.name,
        role=report.role.value,
        state=report.state.value,
        fault=report.fault,
        engine=report.engine,
        engine_version=report.engine_version,
        models=report.models,
        in_flight=report.in_flight,
        load_tokens=report.load_tokens,
        running=_sum(one.running for one in endpoints),
        waiting=_sum(one.waiting for one in endpoints),
        kv_usage=sum(usages) / len(usages) if usages else None,
        endpoints=endpoints,
    )


def _endpoint(report: EndpointReport, said: Said | None) -> EndpointPicture:
    load = None if said is None else said.load
    known = load is not None and load.requests is not None
    return EndpointPicture(
        id=report.id,
        state=report.state.value,
        in_flight=report.in_flight,
        load_tokens=report.load_tokens,
        running=(load.requests or 0) - (load.waiting or 0) if load is not None and known else None,
        waiting=load.waiting if load is not None and known else None,
        kv_usage=None if load is None else load.kv_usage,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
