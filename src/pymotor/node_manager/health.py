"""Whether servers that run also answer: asked for their health, and by a small request of our own where that is on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from pymotor.config.engine import HealthCheckConfig
from pymotor.engines import EngineProcess
from pymotor.engines.metrics_reading import tokens_so_far
from pymotor.fleet import EndpointState, Role
from pymotor.node_manager.running import RunningOrder

logger = logging.getLogger(__name__)

HEALTH_INTERVAL = 2.0
METRICS_TIMEOUT = 5.0
FAILURES_UNTIL_UNHEALTHY = 3
FAILURES_UNTIL_ENDED = 15
"""In a row: after half a minute of bad answers, or, with `health_collector_timeout` of 2 s, a minute of silence."""
REQUEST_INTERVAL = 5.0
"""Seconds between two requests of our own to one server."""


@dataclass(frozen=True)
class Limits:
    """How many failures in a row make a server unhealthy, and how many end it."""

    unhealthy: int
    ended: int


HEALTH_LIMITS = Limits(FAILURES_UNTIL_UNHEALTHY, FAILURES_UNTIL_ENDED)


class Watched:
    """One run of one server, and what was wrong with it at the last looks."""

    def __init__(self) -> None:
        self._failures: dict[Limits, int] = {}
        self._problems: dict[Limits, str] = {}
        self.tokens = 0.0
        """What it had read and written at the last request of our own that failed."""
        self.next_request = 0.0

    def note(self, limits: Limits, problem: str) -> None:
        """One look; an empty problem is none."""
        self._failures[limits] = self._failures.get(limits, 0) + 1 if problem else 0
        self._problems[limits] = problem

    @property
    def unhealthy(self) -> str:
        """Why it is unhealthy, or nothing."""
        return next((self._problems[one] for one, times in self._failures.items() if times >= one.unhealthy), "")

    @property
    def lost(self) -> str:
        """Why it is not waited for any longer, or nothing."""
        return next((self._problems[one] for one, times in self._failures.items() if times >= one.ended), "")


class HealthWatch:
    """Watches the servers of whatever order runs; kept by the NodeManager."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        running: Callable[[], RunningOrder | None],
        config_of: Callable[[Role], HealthCheckConfig],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`config_of`: what the configuration says of a role's engines. `clock`: seconds that only grow."""
        self._client = client
        self._running = running
        self._config_of = config_of
        self._clock = clock
        self._watched: dict[EngineProcess, Watched] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(HEALTH_INTERVAL)
            running = self._running()
            servers = running.answering if running is not None else []
            self._watched = {server: self._watched.get(server) or Watched() for server in servers}
            if running is not None:
                await asyncio.gather(*(self._look(running, server) for server in servers))

    async def _look(self, running: RunningOrder, server: EngineProcess) -> None:
        watched, config = self._watched[server], self._config_of(running.role)
        timeout = float(config.health_collector_timeout)
        watched.note(HEALTH_LIMITS, await self._health_problem(server, timeout))
        asks = config.enable_virtual_inference and running.role is not Role.ENCODE
        if asks and self._clock() >= watched.next_request:
            limits = Limits(config.max_failure_count, 2 * config.max_failure_count)
            watched.note(limits, await self._request_problem(running, server, watched, timeout))
            watched.next_request = self._clock() + REQUEST_INTERVAL
        if watched.lost:
            logger.warning("%s stays unhealthy (%s) and is ended", server.plan.name, watched.lost)
            await server.stop(0.0)
            return
        state = EndpointState.UNHEALTHY if watched.unhealthy else EndpointState.READY
        running.mark(server, state, watched.unhealthy)

    async def _health_problem(self, server: EngineProcess, timeout: float) -> str:
        path = server.plan.health_path
        try:
            response = await self._client.get(server.health_url, timeout=timeout)
        except httpx.HTTPError as error:
            return f"{path} does not answer ({type(error).__name__})"
        return "" if response.status_code == 200 else f"{path} answers {response.status_code}"

    async def _request_problem(
        self, running: RunningOrder, server: EngineProcess, watched: Watched, timeout: float
    ) -> str:
        """A request that got no answer is forgiven while the engine reads or writes tokens for others: it has a long
        line. An answer that refuses the request is an answer."""
        url = server.plan.endpoint.url
        try:
            if running.engine == "sglang":  # of a pair: a plain request would wait for its other half
                response = await self._client.get(f"{url}/health_generate", timeout=timeout)
            else:
                body = {"model": running.model, "prompt": "1", "max_tokens": 1, "temperature": 0}
                response = await self._client.post(f"{url}/v1/completions", json=body, timeout=timeout)
            if response.status_code < 500:
                return ""
            problem = f"a request of one token is answered {response.status_code}"
        except httpx.HTTPError as error:
            problem = f"a request of one token gets no answer ({type(error).__name__})"
        before, watched.tokens = watched.tokens, await self._tokens(server, watched.tokens)
        return "" if watched.tokens > before else problem

    async def _tokens(self, server: EngineProcess, otherwise: float) -> float:
        try:
            response = await self._client.get(f"{server.plan.endpoint.url}/metrics", timeout=METRICS_TIMEOUT)
        except httpx.HTTPError:
            return otherwise
        return tokens_so_far(response.text) if response.status_code == 200 else otherwise
