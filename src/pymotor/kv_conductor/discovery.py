"""Finding where an endpoint of the fleet publishes its events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

import httpx

from pymotor.config import UserConfig
from pymotor.control_plane import is_loopback
from pymotor.control_plane.bounded_reading import UnboundedError, read_bounded
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.fleet import Endpoint, Instance, Role
from pymotor.kv_conductor.asking_turns import AskingTurns
from pymotor.kv_conductor.sources import (
    EventSource,
    SourceError,
    answered_sources,
    configured_sources,
    host_of,
    own_names,
    planned_sources,
)

FOLLOWED_ROLES = (Role.PREFILL, Role.DECODE, Role.UNION)
ANSWER_SECONDS = 3.0
"""For an answer as a whole, connecting included, waiting for a turn not."""
_LONGEST_ANSWER = 1024 * 1024
_AT_A_TIME = 32
_UNKNOWN_PATH = (404, 405, 501)
_FORBIDDEN = (401, 403)

_Answer = TypeVar("_Answer")

logger = logging.getLogger(__name__)


class EngineRefusedError(SourceError):
    """It answers, but not what it was asked."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(f"it answers {path} with status {status}")
        self.status = status


class Discovery:
    """What engines are asked with, and what the configuration says. One client for all; `close` ends it."""

    def __init__(self, user: UserConfig | None, tls: ClientTLS | None = None, engine_key: str = "") -> None:
        """`tls`: for engines at https addresses. `engine_key`: what they are started with (`--api-key`)."""
        self._user = user
        self._turns = AskingTurns(_AT_A_TIME)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            transport=RenewedTransport(tls, limits),
            timeout=httpx.Timeout(ANSWER_SECONDS),
            trust_env=False,
            headers={"Accept-Encoding": "identity", **_authorization(engine_key)},
        )

    async def close(self) -> None:
        """Let go of its connections."""
        await self._client.aclose()

    def engine(self, instance: Instance, endpoint: Endpoint) -> AskedEngine:
        """Who is asked about this endpoint."""
        return AskedEngine(self._client, self._turns, self._user, instance, endpoint)


class AskedEngine:
    """The server of one endpoint. While it does not answer, others are asked first."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        turns: AskingTurns,
        user: UserConfig | None,
        instance: Instance,
        endpoint: Endpoint,
    ) -> None:
        """`user`: the configuration, where the engine does not say where it publishes."""
        self._client = client
        self._turns = turns
        self._user = user
        self._instance = instance
        self._endpoint = endpoint
        self._failed = False
        """Whether it gave no answer when it was asked last."""

    async def sources(self) -> tuple[EventSource, ...]:
        """One for each rank; empty where the engine publishes nothing. What it says itself counts, else how it was
        planned, else the section of its role. Raises `SourceError`: it should be tried again."""
        body = await self._answer("/kv_event_sources")
        if body is not None:
            return answered_sources(self._endpoint, body)
        return planned_sources(self._endpoint) or self._configured()

    async def aliases(self) -> frozenset[str]:
        """Which of the instance's names mean its first model by what the engine says of them; adapters have a parent.
        Empty where the engine does not know the question or lets nobody ask. Raises `SourceError`: it should be tried
        again."""
        models = self._instance.models
        names = frozenset(models)
        if len(names) < 2:
            return names
        try:
            body = await self._answer("/v1/models")
        except EngineRefusedError as error:
            if error.status not in _FORBIDDEN:
                raise
            logger.warning(
                "%s says nobody which of its names are adapters (%s), so all but %s are taken for some; if it was "
                "started with --api-key, http_config.engine_api_key_env names the variable that has it",
                self._endpoint.id,
                error,
                models[0],
            )
            body = None
        return names & own_names(body) if body is not None else frozenset()

    def _configured(self) -> tuple[EventSource, ...]:
        section = self._user.engine_section(self._instance.role.value) if self._user is not None else None
        # Of several engines on one machine the configuration does not say which port is whose.
        if section is None or is_loopback(host_of(self._endpoint)):
            return ()
        sizes = section.parallel_sizes()
        ranks = sizes.data if sizes is not None and len(self._instance.endpoints) == 1 else 1
        return configured_sources(self._endpoint, section.options, ranks)

    async def _answer(self, path: str) -> bytes | None:
        """None: the engine does not know such a question. Raises `SourceError`."""
        async with self._turns.turn(behind=self._failed):
            self._failed = True
            try:
                status, body = await _within(ANSWER_SECONDS, self._ask(path))
            except asyncio.TimeoutError as error:
                raise SourceError(f"it does not answer {path} within {ANSWER_SECONDS:g} s") from error
            except UnboundedError as error:
                raise SourceError(f"it answers {path} with {error}") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise SourceError(f"it does not answer {path} ({type(error).__name__})") from error
            self._failed = False
        if status in _UNKNOWN_PATH:
            return None
        if status != 200:
            raise EngineRefusedError(path, status)
        return body

    async def _ask(self, path: str) -> tuple[int, bytes]:
        async with self._client.stream("GET", f"{self._endpoint.url}{path}") as reply:
            return reply.status_code, await read_bounded(reply.aiter_raw(), _LONGEST_ANSWER)


async def _within(seconds: float, asking: Coroutine[None, None, _Answer]) -> _Answer:
    """What it returns. Raises `asyncio.TimeoutError` when that takes longer, however much of it has come by then.

    Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes together with the answer."""
    task = asyncio.get_running_loop().create_task(asking)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
    finally:
        task.cancel()
        task.add_done_callback(_look_at)
    return task.result()


def _look_at(ended: asyncio.Task[_Answer]) -> None:
    """So that nothing is logged of one whom nobody waits for any more."""
    if not ended.cancelled():
        ended.exception()


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
