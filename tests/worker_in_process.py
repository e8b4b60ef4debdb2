"""A gateway worker inside the test's own process and event loop, with real sockets toward clients and engines.

For tests that decide byte by byte what arrives when, or that send so many requests that processes of their own would
cost more than the requests. Run them with `uvloop.run`, since workers do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from free_ports import free_port
from pymotor.coordinator.control import FleetUpdate, WorkerStart
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.worker import Worker
from pymotor.fleet import Endpoint, EndpointState, FleetSnapshot, Instance, InstanceState, Role

MODEL = "tiny"


class WorkerInProcess:
    """One worker before union engines at these ports, or before these instances of one endpoint each. Use as an
    asynchronous context manager."""

    def __init__(self, engines: Sequence[int | Instance], settings: Settings | None = None) -> None:
        self.port = free_port()
        self.settings = settings or Settings(max_retry=0, retry_delay=0.0)
        self.version = 0
        self.instances = [
            union_at(f"http://127.0.0.1:{engine}", number) if isinstance(engine, int) else engine
            for number, engine in enumerate(engines)
        ]
        self._descriptor = -1
        self._ledger: Ledger
        self._sweeping: asyncio.Task[None]
        self.worker: Worker

    async def __aenter__(self) -> WorkerInProcess:
        rows = max(1, len(self.instances))
        self._descriptor = Ledger.allocate(columns=1, rows=rows)
        self._ledger = Ledger(self._descriptor, columns=1, rows=rows, column=0)
        start = WorkerStart(
            settings=self.settings, host="127.0.0.1", port=self.port, column=0, columns=1, ledger_rows=rows
        )
        self.worker = Worker(start, self._ledger, asyncio.get_running_loop())
        self.tell_fleet(self.instances)
        await self.worker.listen()
        self._sweeping = asyncio.get_running_loop().create_task(self.worker.sweep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweeping.cancel()
        await self.worker.drain(0.0)
        await asyncio.sleep(0)
        os.close(self._descriptor)

    def tell_fleet(self, instances: Sequence[Instance]) -> None:
        """The fleet is these of its instances from now on, maybe with other fields."""
        self.version += 1
        rows = {instance.endpoints[0].id: (number, 1) for number, instance in enumerate(self.instances)}
        snapshot = FleetSnapshot(version=self.version, instances=tuple(instances))
        self.worker.set_fleet(FleetUpdate(snapshot=snapshot, rows=rows))

    def loads(self) -> list[tuple[int, int]]:
        """Load and requests in flight of each engine, as the ledger has them."""
        return [self._ledger.own(row) for row in range(len(self.instances))]

    def held(self) -> list[int]:
        """Requests that still fetch something from each engine, as the ledger has them."""
        return [self._ledger.held(row) for row in range(len(self.instances))]

    async def until_idle(self) -> None:
        """Wait until the ledger is exactly zero and no leg has a connection in hand. Raises `AssertionError`."""
        await until(
            lambda: not any(map(any, self.loads())) and not any(self.held()) and not self.worker._upstream.busy,
            "the ledger is zero and no leg is left",
        )


def union_at(url: str, number: int = 0) -> Instance:
    """The fleet's entry of an engine."""
    endpoint = Endpoint(id=f"union-{number}/0", url=url, state=EndpointState.READY)
    return Instance(
        name=f"union-{number}",
        role=Role.UNION,
        models=(MODEL,),
        engine="sim",
        state=InstanceState.ACTIVE,
        endpoints=(endpoint,),
        pairing=MODEL,
    )


async def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until `condition()` is true. Raises `AssertionError` that says `what` did not happen."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.005)
