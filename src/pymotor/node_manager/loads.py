"""What the engines have to do, read from their own metrics for the reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from pymotor.engines import EngineProcess
from pymotor.engines.metrics_reading import EngineLoad, read_load
from pymotor.node_manager.running import RunningOrder

DRAINING_INTERVAL = 0.5
"""Seconds between two readings while the Controller waits for the engines to have nothing left to do."""
_TIMEOUT = 2.0


class LoadReadings:
    """Reads the servers of whatever order runs; kept by the NodeManager."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        running: Callable[[], RunningOrder | None],
        draining: Callable[[], bool],
        interval: float,
        changed: Callable[[], None],
    ) -> None:
        """`interval`: seconds between two readings. `changed` is called after each reading while draining, so that it
        is reported at once."""
        self._client = client
        self._running = running
        self._draining = draining
        self.interval = interval
        """As above; what is set holds from the next reading."""
        self._changed = changed
        self._wake = asyncio.Event()

    def hurry(self) -> None:
        """There is a new order, perhaps one to drain: the next reading is due now."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._wake.clear()
            running = self._running()
            if running is not None:
                await asyncio.gather(*(self._read(running, server) for server in running.answering))
                if self._draining():
                    self._changed()
            pause = min(DRAINING_INTERVAL, self.interval) if self._draining() else self.interval
            # not `wait_for`, which forgets that it was cancelled when the event comes at the same moment (Python 3.11)
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({woken}, timeout=pause)
            finally:
                woken.cancel()

    async def _read(self, running: RunningOrder, server: EngineProcess) -> None:
        load: EngineLoad | None = None
        try:
            response = await self._client.get(f"{server.plan.endpoint.url}/metrics", timeout=_TIMEOUT)
            if response.status_code == 200:
                load = read_load(running.engine, response.text)
        except httpx.HTTPError:
            load = None
        running.note_load(server, load)
