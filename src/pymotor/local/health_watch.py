"""The health of Controller and Coordinator: whoever stays ill is ended, so that it is started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx

from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.tls import ClientTLS
from pymotor.engines import EngineProcess, KeptServers
from pymotor.local.events import Event, Note

HEALTH_INTERVAL = 2.0
HEALTH_TIMEOUT = 5.0
FAILURES_UNTIL_ENDED = 15
"""In a row: after half a minute of bad answers, or a minute and a half of silence."""


class HealthWatch:
    """Asks them again and again."""

    def __init__(
        self, watched: Sequence[KeptServers], show: Callable[[Event], None], tls: ClientTLS | None = None
    ) -> None:
        """`tls`: None for plain HTTP."""
        self._tls = tls
        self._watched = tuple(watched)
        self._show = show
        self._bad_answers: dict[EngineProcess, int] = {}
        """How often in a row a process did not say that it is well."""

    async def run(self) -> None:
        """Never returns."""
        async with asking_client(self._tls, timeout=HEALTH_TIMEOUT) as client:
            while True:
                await asyncio.sleep(HEALTH_INTERVAL)
                serving = [process for kept in self._watched if kept.serving for process in kept.processes]
                self._bad_answers = {process: self._bad_answers.get(process, 0) for process in serving}
                for process in serving:
                    await self._note(process, await _problem(client, process))

    async def _note(self, process: EngineProcess, problem: str) -> None:
        now = self._bad_answers[process] = self._bad_answers[process] + 1 if problem else 0
        if now == FAILURES_UNTIL_ENDED:
            self._show(Note(f"{process.plan.name} stays unhealthy ({problem}) and is ended", severity="warning"))
            await process.stop(0.0)


async def _problem(client: httpx.AsyncClient, process: EngineProcess) -> str:
    """What is wrong with its health, or nothing."""
    try:
        response = await client.get(process.health_url)
    except httpx.HTTPError as error:
        return f"{process.plan.health_path} does not answer ({type(error).__name__})"
    return "" if response.status_code == 200 else f"{process.plan.health_path} answers {response.status_code}"
