"""Servers that are kept running: what is told when servers end, and that all ranks start again as another run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from free_ports import free_port
from pymotor.engines import EngineProcess, InstancePlan, KeptServers, ServerPlan, kept_servers
from pymotor.fleet import Endpoint, EndpointState, Instance, Role

SECONDS = 60.0
GONE, STARTING, READY = EndpointState.GONE, EndpointState.STARTING, EndpointState.READY

SERVER = """
import http.server, os, sys
port, forbidden, identity = sys.argv[1:]
if os.path.exists(forbidden):
    sys.exit("it is forbidden")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


class Told:
    """What an instance said, in order, to be waited for."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, EndpointState, str]] = []
        self._news = asyncio.Event()

    def __call__(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        self.lines.append((process.plan.name, state, detail))
        self._news.set()

    async def until(self, state: EndpointState, times: int) -> None:
        """Wait until `state` was told so often."""

        async def heard() -> None:
            while sum(line[1] is state for line in self.lines) < times:
                self._news.clear()
                await self._news.wait()

        await asyncio.wait_for(heard(), SECONDS)


def plan_of(servers: int, forbidden: Path) -> InstancePlan:
    with_ports = []
    for rank in range(servers):
        port = free_port()
        argv = (sys.executable, "-c", SERVER, str(port), str(forbidden), f"id-of-decode-0-{rank}")
        endpoint = Endpoint(id=f"decode-0/{rank}", url=f"http://127.0.0.1:{port}")
        with_ports.append(ServerPlan(name=f"decode-0-rank-{rank}", endpoint=endpoint, argv=argv, env={}))
    instance = Instance(name="decode-0", role=Role.DECODE, models=("m",), engine="sim")
    return InstancePlan(instance=instance, servers=tuple(with_ports), identity="id-of-decode-0")


@asynccontextmanager
async def kept(plan: InstancePlan, directory: Path, told: Told) -> AsyncIterator[KeptServers]:
    instance = KeptServers(
        plan.servers, lambda name: directory / f"{name}.log", SECONDS, told, 0.0, lambda: plan.renewed().servers
    )
    keeping: asyncio.Task[None] | None = None
    try:
        await instance.start()
        keeping = asyncio.create_task(instance.keep())
        yield instance
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        await instance.stop(0.0)


async def until_serving(instance: KeptServers) -> None:
    async def serving() -> None:
        while not instance.serving:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)

    await asyncio.wait_for(serving(), SECONDS)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_servers, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(kept_servers, "LONGEST_PAUSE", 0.05)


async def test_all_ranks_start_again_as_another_run(tmp_path: Path) -> None:
    told = Told()
    async with kept(plan_of(2, tmp_path / "no"), tmp_path, told) as instance:
        before = instance.processes
        assert before[0].process_id is not None
        os.kill(before[0].process_id, signal.SIGKILL)
        await told.until(READY, 4)
        after = instance.processes
        assert told.lines[4:6] == [
            ("decode-0-rank-0", GONE, "killed by signal 9"),
            ("decode-0-rank-1", GONE, "starts again with decode-0-rank-0"),
        ]
        assert {line[1] for line in told.lines[6:]} == {STARTING, READY}
        assert all(old.process_id and not psutil.pid_exists(old.process_id) for old in before)
        assert [process.running for process in after] == [True, True]
        identities = [process.plan.argv[-1].rpartition("-") for process in after]
        assert identities[0][0] == identities[1][0] != "id-of-decode-0"
        assert [identity[2] for identity in identities] == ["0", "1"]
        assert [new.plan.endpoint for new in after] == [old.plan.endpoint for old in before]
        last = [process.process_id for process in after]
    assert not any(psutil.pid_exists(process_id or 0) for process_id in last)


async def test_what_cannot_start_is_tried_again_and_told_each_time(tmp_path: Path) -> None:
    told, forbidden = Told(), tmp_path / "forbidden"
    async with kept(plan_of(1, forbidden), tmp_path, told) as instance:
        forbidden.touch()
        assert instance.processes[0].process_id is not None
        os.kill(instance.processes[0].process_id, signal.SIGKILL)
        await told.until(GONE, 4)
        for _, _, detail in [line for line in told.lines if line[1] is GONE][1:4]:
            assert "ended (exit status 1) before it was ready" in detail
            assert "it is forbidden" in detail
        assert instance.restarts >= 3
        forbidden.unlink()
        await told.until(READY, 2)
        assert instance.processes[0].running


async def test_pauses_are_short_again_after_long_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    async with kept(plan_of(1, tmp_path / "no"), tmp_path, told) as instance:
        for settled, restarts in ((SECONDS, 1), (SECONDS, 2), (0.0, 1)):
            monkeypatch.setattr(kept_servers, "SETTLED_SECONDS", settled)
            ready = sum(line[1] is READY for line in told.lines)
            assert instance.processes[0].process_id is not None
            os.kill(instance.processes[0].process_id, signal.SIGKILL)
            await told.until(READY, ready + 1)
            monkeypatch.setattr(kept_servers, "SETTLED_SECONDS", SECONDS)
            assert instance.restarts == restarts
        await until_serving(instance)
        monkeypatch.setattr(kept_servers, "SETTLED_SECONDS", 0.0)
        assert instance.restarts == 0, "who serves for long has failed long ago, also before the next loss"
