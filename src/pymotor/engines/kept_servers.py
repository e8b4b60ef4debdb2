"""Servers that are kept running: started together, and started again together when one of them has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from pymotor.engines.plan import ServerPlan
from pymotor.engines.process import EngineProcess, EngineStartError
from pymotor.fleet import EndpointState

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
SETTLED_SECONDS = 60.0
"""Whoever has served for so long is not in a circle of crashes: its next pause is the first again."""

Tell = Callable[[EngineProcess, EndpointState, str], None]
"""Which server, how it is now, and for one that is gone why, in words for a person."""


async def all_or_none(starts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them side by side. When one fails, or the caller is cancelled, the others are cancelled and have ended before
    that is raised."""
    tasks = [asyncio.create_task(start) for start in starts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class KeptServers:
    """`start()` once, then `keep()`, and `stop()` on every way out, when `keep()` has been cancelled.

    Instead of `start()` and `keep()`, `run()` or `run_once()` for an owner whom a failed start does not end. Made for
    the servers of one instance, which is the unit of restart: ranks that lost one of them cannot serve.
    """

    def __init__(
        self,
        servers: Sequence[ServerPlan],
        log_file: Callable[[str], Path],
        start_deadline: float,
        tell: Tell,
        grace: float,
        renewed: Callable[[], Sequence[ServerPlan]] | None = None,
        finished: Callable[[EngineProcess], bool] = lambda process: False,  # noqa: ARG005  a default
    ) -> None:
        """`log_file` gives the path for a server's name; all runs of a server write there. `start_deadline` and
        `grace` are seconds: until a server answers, and from SIGTERM to SIGKILL. `renewed` says what to start the next
        time (see `InstancePlan.renewed`); None: the same. `finished` says of a server that ended by itself whether that
        is as it should be; then none is started again."""
        self._servers = tuple(servers)
        self._renewed = renewed
        self._finished = finished
        self._log_file = log_file
        self._start_deadline = start_deadline
        self._tell = tell
        self._grace = grace
        self._ready_since = 0.0
        self.processes: tuple[EngineProcess, ...] = ()
        """Of the present run."""
        self._restarts = 0
        self.serving = False
        """Whether all of them are ready, as far as nothing was told since."""

    @property
    def restarts(self) -> int:
        """How often they were started again since they last served for `SETTLED_SECONDS`."""
        settled = self.serving and time.monotonic() - self._ready_since >= SETTLED_SECONDS
        return 0 if settled else self._restarts

    async def start(self) -> None:
        """Return when all servers are ready. Raises `EngineStartError` as soon as one fails; stop the rest then."""
        self.processes = tuple(
            EngineProcess(server, self._log_file(server.name), self._start_deadline) for server in self._servers
        )
        await all_or_none(self._bring_up(process) for process in self.processes)
        self._ready_since = time.monotonic()
        self.serving = True

    async def keep(self) -> None:
        """Start them all again whenever one has ended. Returns only when one has `finished`."""
        while True:
            ended = await self._lost()
            if any(self._finished(process) for process in ended):
                return
            while not await self._started_again():
                pass

    async def run(self) -> None:
        """Start them, and again whenever they did not start or one has ended. Never returns."""
        if not await self._tried():
            while not await self._started_again():
                pass
        await self.keep()

    async def run_once(self) -> None:
        """Start them; return when they did not start or one has ended. It was told, and nothing of them is left."""
        if await self._tried():
            await self._lost("ends")

    async def stop(self, grace: float) -> None:
        """End all servers: SIGTERM, after `grace` seconds SIGKILL. Returns when nothing of them is left."""
        await asyncio.gather(*(process.stop(grace) for process in self.processes))

    async def _bring_up(self, process: EngineProcess) -> None:
        await process.start()
        self._tell(process, EndpointState.STARTING, "")
        await process.wait_ready()
        self._tell(process, EndpointState.READY, "")

    async def _lost(self, what_then: str = "starts again") -> list[EngineProcess]:
        """Wait until a server ends; tell it, and end the others with it. Returns those that ended by themselves."""
        exits = {asyncio.create_task(process.wait_exit()): process for process in self.processes}
        try:
            done, _ = await asyncio.wait(exits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in exits:
                task.cancel()
            await asyncio.gather(*exits, return_exceptions=True)
        self._restarts, self.serving = self.restarts, False
        ended = [exits[task] for task in done]
        for process in ended:
            self._tell(process, EndpointState.GONE, process.end_in_words())
        await self.stop(self._grace)
        for process in self.processes:
            if process not in ended:
                self._tell(process, EndpointState.GONE, f"{what_then} with {ended[0].plan.name}")
        return ended

    async def _started_again(self) -> bool:
        """Wait, and try once; tells why it failed."""
        pause = min(FIRST_PAUSE * 2.0 ** min(self._restarts, 16), LONGEST_PAUSE)
        self._restarts += 1
        await asyncio.sleep(pause)
        if self._renewed is not None:
            self._servers = tuple(self._renewed())
        return await self._tried()

    async def _tried(self) -> bool:
        """Start them; tells why that failed, when nothing of them is left."""
        try:
            await self.start()
        except EngineStartError as error:
            await self.stop(self._grace)
            for process in self.processes:
                self._tell(process, EndpointState.GONE, str(error))
            return False
        return True
