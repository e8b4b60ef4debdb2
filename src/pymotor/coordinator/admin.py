"""What operators, probes and Prometheus ask the Coordinator: the management and the observability server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated

import msgspec
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from pymotor.config import ConfigState
from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.control import ExplainRequest
from pymotor.coordinator.differing_workers import all_would, newest
from pymotor.coordinator.engine_scrapes import EngineScrapes
from pymotor.coordinator.fleet_metrics import fleet_metrics, worker_metrics
from pymotor.coordinator.fleet_source import FleetSource
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.coordinator.live_settings import SettingsWatch, config_metrics
from pymotor.coordinator.metric_views import View, engines_text
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, Ledger
from pymotor.coordinator.worker_pool import WorkerPool
from pymotor.fleet import Endpoint, EndpointState, Instance, InstanceState, Role
from pymotor.telemetry.metrics import MetricsDump, merge, render

EXPLAIN_DEADLINE = 10.0
"""Seconds that workers have to explain a request."""


class RequestNotSent(msgspec.Struct, kw_only=True):
    """What `POST /explain` takes: a request as a client would send it."""

    body: msgspec.Raw
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = {}


class EndpointReport(BaseModel):
    """One engine server in `GET /instances`."""

    id: str
    url: str
    state: EndpointState
    data_parallel_rank: int | None
    in_flight: int
    load_tokens: float
    others_load_tokens: float
    kv_promised_tokens: int
    kv_capacity_tokens: int | None


class InstanceReport(BaseModel):
    """One instance in `GET /instances`."""

    name: str
    role: Role
    state: InstanceState
    models: list[str]
    engine: str
    engine_version: str
    fault: str
    in_flight: int
    load_tokens: float
    endpoints: list[EndpointReport]


class SourceReport(BaseModel):
    """The Controller that tells of the fleet, in `GET /instances`."""

    connected: bool
    url: str
    last_heard_seconds: float | None


class FleetReport(BaseModel):
    """The answer to `GET /instances`; loads are tokens that legs under way are charged with, beside those of other
    Coordinators where they are estimated."""

    epoch: int | None
    version: int | None
    complete: bool
    ready: bool
    models: list[str]
    missing: list[str]
    degraded: list[str]
    workers: int
    workers_listening: int
    in_flight: int
    load_tokens: float
    fleet_source: SourceReport | None
    """None where nobody is asked for the fleet."""
    instances: list[InstanceReport]


class ReadinessReport(BaseModel):
    """The answer to `GET /readiness`."""

    ready: bool
    models: list[str]
    missing: list[str]
    degraded: list[str]


class HealthReport(BaseModel):
    """The answer to `GET /health`, `/liveness` and `/startup`."""

    status: str
    workers: int
    workers_listening: int


class Overview:
    """Answers the servers' questions from what the supervisor keeps."""

    def __init__(
        self,
        fleet: KnownFleet,
        ledger: Ledger,
        pool: WorkerPool,
        source: FleetSource,
        engines: EngineScrapes,
        live: SettingsWatch | None = None,
    ) -> None:
        self._engines = engines
        self._live = live
        self._source = source
        self._fleet = fleet
        self._ledger = ledger
        self._pool = pool

    def fleet(self) -> FleetReport:
        """Instances, endpoints, states, load."""
        snapshot = self._fleet.snapshot
        ready = self.readiness()
        instances = [self._instance(instance) for instance in self._fleet.instances]
        return FleetReport(
            epoch=snapshot.epoch if snapshot else None,
            version=snapshot.version if snapshot else None,
            complete=snapshot.complete if snapshot else False,
            ready=ready.ready,
            models=ready.models,
            missing=ready.missing,
            degraded=ready.degraded,
            workers=self._pool.wanted,
            workers_listening=self._pool.listening,
            in_flight=sum(instance.in_flight for instance in instances),
            load_tokens=sum(instance.load_tokens for instance in instances),
            fleet_source=self._source_report(),
            instances=instances,
        )

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All that are known."""
        return self._fleet.instances

    def in_flight(self, endpoint_id: str) -> int:
        """Requests that an endpoint has now, or that still fetch something from it; 0 for one that is not known."""
        row = self._fleet.row_of(endpoint_id)
        return 0 if row is None else self._ledger.in_flight(row) + self._ledger.held(row)

    def readiness(self) -> ReadinessReport:
        """Whether a request that comes now can be answered, and what is missing if not."""
        able = self._fleet.readiness
        missing = list(able.missing)
        if self._pool.stopping:
            missing.insert(0, "the Coordinator is ending and accepts nothing new")
        elif self._pool.listening == 0:
            missing.insert(0, "no worker process accepts requests")
        degraded = list(able.degraded)
        if self.config is not None and self.config.error is not None:
            degraded.append(f"the newest configuration is not in force: {self.config.error.message}")
        serving = able.ready and self._pool.listening > 0 and not self._pool.stopping
        return ReadinessReport(ready=serving, models=list(able.models), missing=missing, degraded=degraded)

    def health(self, status: str) -> HealthReport:
        """The worker processes, under the heading of `status`."""
        return HealthReport(status=status, workers=self._pool.wanted, workers_listening=self._pool.listening)

    @property
    def config(self) -> ConfigState | None:
        """Which configuration is in force; None where no file is followed."""
        return None if self._live is None else self._live.state

    @property
    def started(self) -> bool:
        """Whether all workers have once accepted requests."""
        return self._pool.was_ready

    @property
    def answers(self) -> bool:
        """Whether at least one worker accepts requests."""
        return self._pool.listening > 0

    async def explain(self, request: ExplainRequest) -> tuple[int, bytes]:
        """Status and JSON: why a request goes where it goes, as its worker says."""
        replies = await self._pool.explain(request, EXPLAIN_DEADLINE)
        if not replies:
            return 503, ApiError(503, "no worker answers").body()
        return all_would(replies) if request.path else newest(replies)

    async def metrics(self, view: View | None = None) -> str:
        """The gateway's own figures as Prometheus text, or a view of the engines'."""
        if view is None:
            return self._own_metrics()
        newest = await self._engines.newest()
        departed = list(self._engines.departed.families())
        engines = await asyncio.to_thread(engines_text, view, newest, departed)
        return self._own_metrics() + engines if view is View.FULL else engines

    def _own_metrics(self) -> str:
        workers = self._pool.metrics()
        own = worker_metrics(wanted=self._pool.wanted, listening=self._pool.listening, restarts=self._pool.restarts)
        followed = MetricsDump(tuple(config_metrics(self.config)) if self.config is not None else ())
        return render(merge([workers, fleet_metrics(self._fleet, self._ledger), own, followed]))

    def _source_report(self) -> SourceReport | None:
        state = self._source.state
        if state is None:
            return None
        heard = state.last_heard_seconds
        rounded = None if heard is None else round(heard, 1)
        return SourceReport(connected=state.connected, url=state.url, last_heard_seconds=rounded)

    def _instance(self, instance: Instance) -> InstanceReport:
        endpoints = [self._endpoint(endpoint, instance.kv_capacity_tokens) for endpoint in instance.endpoints]
        return InstanceReport(
            name=instance.name,
            role=instance.role,
            state=instance.state,
            models=list(instance.models),
            engine=instance.engine,
            engine_version=instance.engine_version,
            fault=instance.fault,
            in_flight=sum(endpoint.in_flight for endpoint in endpoints),
            load_tokens=sum(endpoint.load_tokens for endpoint in endpoints),
            endpoints=endpoints,
        )

    def _endpoint(self, endpoint: Endpoint, capacity: int | None) -> EndpointReport:
        row = self._fleet.row(endpoint)
        return EndpointReport(
            id=endpoint.id,
            url=endpoint.url,
            state=endpoint.state,
            data_parallel_rank=endpoint.data_parallel_rank,
            in_flight=self._ledger.in_flight(row),
            load_tokens=self._ledger.charged(row) / TENTHS_PER_ACTIVE_TOKEN,
            others_load_tokens=self._ledger.others(row) / TENTHS_PER_ACTIVE_TOKEN,
            kv_promised_tokens=self._ledger.promised(row),
            kv_capacity_tokens=capacity or self._ledger.capacity(row) or None,
        )


def management_app(overview: Overview, more: Iterable[APIRouter] = ()) -> FastAPI:
    """`GET /instances` for people and tools; `/health`, `/readiness`, `/liveness`, `/startup` for probes; and what
    `more` has."""
    app = FastAPI(title="PyMotor Coordinator, management", docs_url=None, redoc_url=None)
    for router in more:
        app.include_router(router)

    @app.get("/instances")
    async def instances() -> FleetReport:
        """All instances and endpoints with their state and load."""
        return overview.fleet()

    @app.get("/config")
    async def config() -> Response:
        """Which `user_config.json` is in force in all workers, what waits for a restart, what is wrong; 404 where no
        file is followed."""
        if overview.config is None:
            return JSONResponse({"error": "no configuration file is followed"}, 404)
        return Response(msgspec.json.encode(overview.config), media_type="application/json")

    @app.get("/readiness", responses={503: {"model": ReadinessReport}})
    async def readiness_probe() -> Response:
        """200 when a model can be served, 503 with what is missing otherwise."""
        report = overview.readiness()
        return JSONResponse(report.model_dump(), 200 if report.ready else 503)

    @app.get("/health", responses={503: {"model": HealthReport}})
    async def health() -> Response:
        """200 while a worker accepts requests, whatever the fleet can do; 503 otherwise."""
        status, code = ("ok", 200) if overview.answers else ("no worker accepts requests", 503)
        return JSONResponse(overview.health(status).model_dump(), code)

    @app.get("/liveness")
    async def liveness() -> HealthReport:
        """200 while the supervisor runs: it starts workers anew by itself."""
        return overview.health("alive")

    @app.get("/startup", responses={503: {"model": HealthReport}})
    async def startup() -> Response:
        """200 once all workers have accepted requests, 503 until then."""
        status, code = ("started", 200) if overview.started else ("starting", 503)
        return JSONResponse(overview.health(status).model_dump(), code)

    @app.get("/explain")
    async def explain_recent(request_id: str = "") -> Response:
        """Why a request of a moment ago went where it went: by the id of the client or of the answer; else the
        newest."""
        status, found = await overview.explain(ExplainRequest(number=0, request_id=request_id))
        return Response(found, status, media_type="application/json")

    @app.post("/explain")
    async def explain_now(request: Request) -> Response:
        """Where a request would go now; nothing is sent to an engine but, without a tokenizer here, `/tokenize`."""
        try:
            asked = msgspec.json.decode(await request.body(), type=RequestNotSent)
        except msgspec.MsgspecError as error:
            return Response(ApiError(400, f"not a request to explain: {error}").body(), 400)
        headers = {name.lower(): value for name, value in asked.headers.items()}
        question = ExplainRequest(number=0, path=asked.path, body=bytes(asked.body), headers=headers)
        status, found = await overview.explain(question)
        return Response(found, status, media_type="application/json")

    return app


def observability_app(overview: Overview) -> FastAPI:
    """`GET /metrics` for Prometheus."""
    app = FastAPI(title="PyMotor Coordinator, observability", docs_url=None, redoc_url=None)

    @app.get("/metrics", response_class=PlainTextResponse, responses={400: {"description": "no such view"}})
    async def metrics(view: Annotated[str | None, Query(alias="type")] = None) -> Response:
        """All workers' figures, and the fleet's, in the Prometheus text format 0.0.4; `type` asks for the engines'."""
        try:
            wanted = None if view is None else View(view)
        except ValueError:
            return PlainTextResponse(f"no such view; type is one of {', '.join(View)}\n", 400)
        return Response(await overview.metrics(wanted), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
