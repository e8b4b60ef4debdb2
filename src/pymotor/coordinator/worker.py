"""A worker: it listens beside its siblings on the inference port and answers requests. `worker_control` is its
process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TypedDict

from pymotor.control_plane.open_files import allow_many_files
from pymotor.coordinator.admission import Admission
from pymotor.coordinator.affinity.composition import placement_for, prompt_tokens
from pymotor.coordinator.bootstraps import Bootstraps
from pymotor.coordinator.callbacks import Callbacks
from pymotor.coordinator.control import (
    ExplainReply,
    ExplainRequest,
    FinishedQuestion,
    FleetUpdate,
    WorkerStart,
)
from pymotor.coordinator.dashboard.finished_answers import answer_finished
from pymotor.coordinator.dashboard.finished_requests import FinishedRequests
from pymotor.coordinator.draining import drain
from pymotor.coordinator.explainer import Explainer
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.flows.services import Services
from pymotor.coordinator.following import Follower, Following
from pymotor.coordinator.gateway import Gateway
from pymotor.coordinator.guarding import Guarding
from pymotor.coordinator.http.client_request import Limits
from pymotor.coordinator.http.last_clients import accept_waiting, pass_over_new
from pymotor.coordinator.http.open_connections import OpenConnections, connections_within
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.http.tls_door import HANDSHAKES, TLSDoor
from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.late_callbacks import LateCallbacks
from pymotor.coordinator.limits.rate_limits import RateLimits
from pymotor.coordinator.metaserver import Metaserver
from pymotor.coordinator.operators import OperatorLine
from pymotor.coordinator.pairing import PairingRules
from pymotor.coordinator.readiness import serving_endpoints
from pymotor.coordinator.request_log import RequestLog
from pymotor.coordinator.routing import FleetView
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.round_robin import RoundRobin
from pymotor.coordinator.scheduling.target import Policy
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.targets import Targets
from pymotor.coordinator.tracing.composition import Tracing
from pymotor.fleet import KVDialect

logger = logging.getLogger(__name__)

_BACKLOG = 4096
_SWEEP_SECONDS = 1.0
_CONNECTING_SECONDS = 0.25
"""Clients that have begun to connect when no more may have so long to be through with it."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where workers of one machine reach each other when they listen on all interfaces."""


class Worker:
    """All that lives in one worker process."""

    def __init__(
        self,
        start: WorkerStart,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        instruments: Instruments | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        """`instruments`: by default some that count for this process alone. `limits` go with `settings.rates`.

        Raises `TLSError`.
        """
        settings = start.settings
        self._start = start
        self._loop = loop
        self._tls = settings.tls.door() if settings.tls is not None else None
        self._upstream = SharedState(settings.tls.to_engines() if settings.tls is not None else None)
        self._connections = OpenConnections(connections_within(allow_many_files()))
        self._targets = Targets(ledger, self._upstream)
        self.instruments = instruments or Instruments()
        self.guarding = guarding = Guarding(start, limits, self.instruments)
        policy: Policy = RoundRobin(start.column) if settings.scheduler_type == "round_robin" else LoadBalance(ledger)
        tokens = prompt_tokens(settings, loop)
        self._placement = placement_for(settings, ledger, policy, self.instruments.registry, tokens, loop)
        self._services = services = Services(
            loop=loop,
            admission=Admission(loop, ledger, start.column, settings.limits, self.instruments),
            settings=settings,
            ledger=ledger,
            policy=policy,
            instruments=self.instruments,
            heads=ResponseHeads(server_timing=settings.server_timing, cors=settings.cors),
            callbacks=Callbacks(start.column, loop),
            bootstraps=Bootstraps(self._upstream),
            tokenizer=tokens,
            placement=self._placement,
            counts_usage=guarding.meter is not None,
        )
        self._metaserver = Metaserver(services.callbacks, services.heads, self._upstream, settings.first_token_timeout)
        self._serving_callbacks: asyncio.Task[None] | None = None
        self.on_callback_port: Callable[[int], None] = lambda _port: None
        """Told the port at which decode engines call this worker back, once there is one."""
        self.operators = OperatorLine(start.operator_paths, loop)
        self._request_log: RequestLog | None = None
        if settings.request_log.form != "off":
            self._request_log = RequestLog(settings.request_log, start.column, start.columns, self.instruments)
        self._gateway = Gateway(
            services, self._metaserver, self.operators, request_log=self._request_log, meter=guarding.meter
        )
        self._late = LateCallbacks(loop, self._metaserver, self._gateway.refusal, self._connections.limit)
        self._tracing = Tracing(
            settings.tracing,
            start.column,
            self.instruments.registry,
            scheme="https" if settings.tls is not None else "http",
        )
        self._followers: list[Follower] = []
        self._finished = FinishedRequests(start.column, settings.dashboard.requests_per_second)
        self._failures = self._finished if settings.dashboard.enable else None
        if settings.dashboard.enable:
            self.follow(self._finished)
        if self._tracing.tracer is not None:
            self.follow(self._tracing.tracer)
        self._handle = guarding.before(self._gateway.handle, services.heads, self._request_log)
        self._explainer = Explainer(services, self._gateway.routes)
        self._rules = PairingRules(settings.deploy_mode, settings.callback_host)
        self._limits = Limits(**_client_limits(settings), once=guarding.once)
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._door: TLSDoor | None = None

    async def listen(self) -> None:
        """Accept requests, beside the other workers on the same port. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in self._start.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((self._start.host, self._start.port))
            if self._tls is None:
                self._server = await self._loop.create_server(self._connection, sock=listener, backlog=_BACKLOG)
            else:
                failed = self.instruments.failed_handshakes.add
                handshakes = min(HANDSHAKES, max(1, self._connections.limit // 4))
                self._door = TLSDoor(self._loop, listener, self._tls, self._connection, failed, handshakes=handshakes)
                self._door.open(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def follow(self, follower: Follower) -> None:
        """Show it the requests that it wants to know of, from now on."""
        self._followers.append(follower)
        self._gateway.following = Following(self._followers, self._tracing.tracer, self._failures)

    def _connection(self) -> ClientConnection:
        self.instruments.connections.add()
        if self._late.only:
            return self._late.connection(self._limits)
        return ClientConnection(self._loop, self._handle, self._gateway.refusal, self._limits, self._connections)

    def set_settings(self, settings: Settings) -> None:
        """Requests that begin from now on have these settings; what is bound at the start stays: ports, dialects that
        are allowed, the policy, the tokenizer."""
        self._services.use(settings)
        self._tracing.use(settings.tracing)
        self._metaserver.reply_seconds = settings.first_token_timeout
        self._limits.use(**_client_limits(settings))
        self._finished.use(settings.dashboard.requests_per_second)
        self.guarding.use(settings)

    def set_fleet(self, update: FleetUpdate) -> None:
        """Route by a new snapshot."""
        self._services.encodings.fleet_changed(update.snapshot.instances)
        self._services.bootstraps.forget_all()
        targets = self._targets.update(update)
        self._services.circuits.fleet_changed(update.snapshot.instances, targets)
        serving = serving_endpoints(update.snapshot)
        self._services.closed.fleet_changed(serving)
        if self._placement is not None:
            self._placement.fleet_changed(serving)
        view = FleetView(update.snapshot, targets, self._rules)
        if view.has(KVDialect.CALLBACK) and self._serving_callbacks is None:
            self._take_callbacks()
        self._gateway.set_fleet(view)

    def _take_callbacks(self) -> None:
        """Listen for decode engines' callbacks; requests that need them are refused as long as nobody does."""
        settings, host = self._start.settings, self._start.host
        port = settings.metaserver_base_port and settings.metaserver_base_port + self._start.column
        try:
            shared = self._start.port if settings.callbacks_at_inference_port else None
            listener = self._metaserver.listen(host, port, settings.callback_host, shared)
        except OSError as error:
            logger.error("no port for callbacks of decode engines can be had on %s: %s", host, error)
            return
        self._serving_callbacks = self._loop.create_task(self._metaserver.serve(listener))
        self.on_callback_port(listener.getsockname()[1])

    def set_callback_ports(self, ports: Mapping[int, int]) -> None:
        """Where the workers take callbacks, by number."""
        host = self._start.host
        self._metaserver.set_siblings(ports, _LOOPBACK.get(host, host))

    async def sweep(self) -> None:
        """Once a second, for ever: end what has been silent for too long."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = monotonic()
            for connection in list(self._upstream.busy):
                connection.check_deadline(now)
            for client in (*self._connections, *self._late.connections):
                client.check_deadline(now)
            self._targets.close_expired(now)
            self._metaserver.check_deadlines(now)
            self._services.encodings.close_expired()
            if self._tls is not None:
                self._tls.renewed()
            if self._upstream.tls is not None and self._upstream.tls.renewed():
                self._targets.close_idle()

    def finished_requests(self, question: FinishedQuestion) -> ExplainReply:
        """What has become of requests that are over."""
        return answer_finished(self._finished, question)

    async def explain(self, request: ExplainRequest) -> ExplainReply:
        """Why a request goes where it goes."""
        return await self._explainer.answer(request)

    async def drain(self, grace: float) -> None:
        """Accept nothing new and wait until what runs is done, `grace` seconds at most. Answers say that their
        connections close: who hears it sends no further request into the end of one."""
        ends = monotonic() + grace
        self._limits.closing = True
        for client in self._connections:
            client.close_after_this()
        listener, self._listener = self._listener, None
        if listener is not None and self._serving_callbacks and self._start.settings.callbacks_at_inference_port:
            await self._late.hear(self._connections, min(grace, _CONNECTING_SECONDS), ends)
        if listener is not None:
            await self._stop_listening(listener, min(max(0.0, ends - monotonic()), _CONNECTING_SECONDS))
        await drain(self._connections, self._greets, ends)
        await drain(self._late.connections, lambda: False, ends)
        if self._door is not None:
            self._door.close()
        for client in (*self._connections, *self._late.connections):
            client.break_off()
        self._metaserver.close()
        if self._placement is not None:
            await self._placement.close()
        self.guarding.close()

    def close(self) -> None:
        """Nothing more is to be told: send and write what waits."""
        self._tracing.close()
        if self._request_log is not None:
            self._request_log.close()

    async def _stop_listening(self, listener: socket.socket, seconds: float) -> None:
        """Take in whoever has begun to connect and is through with it within `seconds`."""
        pass_over_new(listener)
        await asyncio.sleep(seconds)
        if self._door is not None:
            self._door.stop()
        if self._server is not None:
            # The loop takes in one client a turn, and closes the socket before those that wait.
            try:
                held = listener.dup()
            except OSError as error:
                logger.warning("clients that wait to be accepted are lost: %s", error)
                self._server.close()
                return
            with held:
                self._server.close()
                waiting = accept_waiting(held)
            for client in waiting:
                await self._loop.connect_accepted_socket(self._connection, client)

    def _greets(self) -> bool:
        return self._door is not None and self._door.greeting


class ClientLimits(TypedDict):
    """The words of `Limits`."""

    head_bytes: int
    body_bytes: int
    arriving_bytes: int
    head_time: float
    body_idle: float


def _client_limits(settings: Settings) -> ClientLimits:
    return ClientLimits(
        head_bytes=settings.header_limit_bytes,
        body_bytes=settings.body_limit_bytes,
        arriving_bytes=settings.arriving_limit_bytes,
        head_time=settings.header_timeout,
        body_idle=settings.body_idle_timeout,
    )
