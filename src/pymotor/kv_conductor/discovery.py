"""Finding where an endpoint of the fleet publishes its events."""

from __future__ import annotations

import logging
from time import monotonic

import httpx

from pymotor.config import UserConfig
from pymotor.control_plane import is_loopback
from pymotor.control_plane.bounded_reading import UnboundedError, read_bounded
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.fleet import Endpoint, Instance, Role
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
_LONGEST_ANSWER = 1024 * 1024
_AT_A_TIME = 32
_UNKNOWN_PATH = (404, 405, 501)
_FORBIDDEN = (401, 403)

logger = logging.getLogger(__name__)


class EngineRefusedError(SourceError):
    """It answers, but not what it was asked."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(f"it answers {path} with status {status}")
        self.status = status


class Discovery:
    """Asks engines, and knows what the configuration says. One client for all; `close` ends it."""

    def __init__(self, user: UserConfig | None, tls: ClientTLS | None = None, engine_key: str = "") -> None:
        """`tls`: for engines at https addresses. `engine_key`: what they are started with (`--api-key`)."""
        self._user = user
        limits = httpx.Limits(max_connections=_AT_A_TIME, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            transport=RenewedTransport(tls, limits),
            timeout=httpx.Timeout(ANSWER_SECONDS, pool=None),
            trust_env=False,
            headers={"Accept-Encoding": "identity", **_authorization(engine_key)},
        )

    async def close(self) -> None:
        """Let go of its connections."""
        await self._client.aclose()

    async def sources(self, instance: Instance, endpoint: Endpoint) -> tuple[EventSource, ...]:
        """One for each rank; empty where the engine publishes nothing. What it says itself counts, else how it was
        planned, else the section of its role. Raises `SourceError`: it should be tried again."""
        body = await self._answer(endpoint, "/kv_event_sources")
        if body is not None:
            return answered_sources(endpoint, body)
        return planned_sources(endpoint) or self._configured(instance, endpoint)

    async def aliases(self, instance: Instance, endpoint: Endpoint) -> frozenset[str]:
        """Which of the instance's names mean its first model by what the engine says of them; adapters have a parent.
        Empty where the engine does not know the question or lets nobody ask. Raises `SourceError`: it should be tried
        again."""
        names = frozenset(instance.models)
        if len(names) < 2:
            return names
        try:
            body = await self._answer(endpoint, "/v1/models")
        except EngineRefusedError as error:
            if error.status not in _FORBIDDEN:
                raise
            logger.warning(
                "%s says nobody which of its names are adapters (%s), so all but %s are taken for some; if it was "
                "started with --api-key, http_config.engine_api_key_env names the variable that has it",
                endpoint.id,
                error,
                instance.models[0],
            )
            body = None
        return names & own_names(body) if body is not None else frozenset()

    def _configured(self, instance: Instance, endpoint: Endpoint) -> tuple[EventSource, ...]:
        section = self._user.engine_section(instance.role.value) if self._user is not None else None
        # Of several engines on one machine the configuration does not say which port is whose.
        if section is None or is_loopback(host_of(endpoint)):
            return ()
        sizes = section.parallel_sizes()
        ranks = sizes.data if sizes is not None and len(instance.endpoints) == 1 else 1
        return configured_sources(endpoint, section.options, ranks)

    async def _answer(self, endpoint: Endpoint, path: str) -> bytes | None:
        """None: the engine does not know such a question. Raises `SourceError`."""
        ends = monotonic() + ANSWER_SECONDS
        try:
            async with self._client.stream("GET", f"{endpoint.url}{path}") as reply:
                body = await read_bounded(reply.aiter_raw(), _LONGEST_ANSWER, ends)
        except UnboundedError as error:
            raise SourceError(f"it answers {path} with {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceError(f"it does not answer {path} ({type(error).__name__})") from error
        if reply.status_code in _UNKNOWN_PATH:
            return None
        if reply.status_code != 200:
            raise EngineRefusedError(path, reply.status_code)
        return body


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
