"""Engines that run and do not answer: found by the watch of one node, ended, and started again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import plain_http
import psutil
import pytest

from free_ports import free_port
from pymotor.config import EnvConfig, UserConfig
from pymotor.config.engine import HealthCheckConfig
from pymotor.engines import InstancePlan, ServerPlan, kept_servers
from pymotor.fleet import Endpoint, EndpointState, Instance, NodeOrder, Role, ServerReport
from pymotor.node_manager import health
from pymotor.node_manager.health import HealthWatch
from pymotor.node_manager.loads import LoadReadings
from pymotor.node_manager.planning import OrderPlanner
from pymotor.node_manager.running import RunningOrder

SECONDS = 60.0
CONFIG: dict[str, Any] = {
    "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu"},
    "motor_engine_union_config": {
        "engine_type": "sim",
        "engine_config": {"model": "tiny", "served_model_name": "tiny", "sim-control": True},
        "motor_nodemanger_config": {"endpoint_config": {"base_port": 0}},
    },
}


class Watching:
    """One engine under the watch, and what is reported of it."""

    def __init__(self, running: RunningOrder, news: asyncio.Event) -> None:
        self.running = running
        self._news = news
        self.states: list[EndpointState] = []
        """Each state that was reported once it had changed."""

    def changed(self) -> None:
        (report,) = self.running.server_reports()
        if self.states[-1:] != [report.state]:
            self.states.append(report.state)
        self._news.set()

    async def until(self, condition: Callable[[ServerReport], object]) -> ServerReport:
        """Wait until what is reported is so."""

        async def reported() -> ServerReport:
            while True:
                self._news.clear()
                (report,) = self.running.server_reports()
                if condition(report):
                    return report
                await self._news.wait()

        return await asyncio.wait_for(reported(), SECONDS)

    def fail(self, *faults: str) -> None:
        (endpoint,) = self.running.share(ORDER).endpoints
        plain_http.post(f"{endpoint.url}/sim/faults", json={"faults": faults}, timeout=60).raise_for_status()


ORDER = NodeOrder(epoch=1, revision=1, instance="union-0", role=Role.UNION, generation=1, stop_seconds=1.0)


@asynccontextmanager
async def watching(
    directory: Path, config: HealthCheckConfig, plan: InstancePlan | None = None
) -> AsyncIterator[Watching]:
    """A simulated engine, or what `plan` says."""
    planned = OrderPlanner(UserConfig.model_validate(CONFIG), EnvConfig(), "job", "127.0.0.1", None, None, None).plan(
        ORDER
    )
    if plan is not None:
        planned = replace(planned, plan=plan)
    told: list[Watching] = []
    running = RunningOrder(ORDER, planned, directory, SECONDS, lambda: told[0].changed())
    told.append(Watching(running, asyncio.Event()))
    async with httpx.AsyncClient(trust_env=False) as client:
        watch = HealthWatch(client, lambda: running, lambda _: config)
        loads = LoadReadings(client, lambda: running, lambda: True, 0.05, told[0].changed)
        running.begin()
        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(loads.run())]
        try:
            await told[0].until(lambda report: report.state is EndpointState.READY)
            yield told[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await running.stop(1.0, asyncio.Event())


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HEALTH_INTERVAL", 0.02)
    monkeypatch.setattr(health, "REQUEST_INTERVAL", 0.0)
    monkeypatch.setattr(kept_servers, "FIRST_PAUSE", 0.01)


async def test_a_frozen_engine_is_ended_and_starts_again(tmp_path: Path) -> None:
    async with watching(tmp_path, HealthCheckConfig(health_collector_timeout=2.0)) as one:
        (process,) = one.running.answering
        assert process.process_id is not None
        psutil.Process(process.process_id).suspend()
        await one.until(lambda report: report.restarts == 1 and report.state is EndpointState.READY)
        assert one.states[-5:] == [
            EndpointState.READY,
            EndpointState.UNHEALTHY,
            EndpointState.GONE,
            EndpointState.STARTING,
            EndpointState.READY,
        ]
        assert not psutil.pid_exists(process.process_id)


async def test_an_engine_that_accepts_and_hangs_is_found_by_a_request(tmp_path: Path) -> None:
    asks = HealthCheckConfig(enable_virtual_inference=True, max_failure_count=3, health_collector_timeout=1.0)
    async with watching(tmp_path, asks) as one:
        one.fail("hang:path=/v1/completions")
        ill = await one.until(lambda report: report.state is EndpointState.UNHEALTHY)
        assert "a request of one token gets no answer" in ill.detail
        await one.until(lambda report: report.restarts == 1 and report.state is EndpointState.READY)
        assert one.running.faults() == ()


BUSY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    tokens = 0
    def do_GET(self):
        Handler.tokens += 1
        body = f"vllm:generation_tokens_total{{}} {Handler.tokens}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        with open(sys.argv[2], "a") as asked:
            asked.write(".")
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def test_an_engine_that_computes_for_others_is_left_alone(tmp_path: Path) -> None:
    """Its line is so long that our own request is never served."""
    asks = HealthCheckConfig(enable_virtual_inference=True, max_failure_count=2)
    port, asked = free_port(), tmp_path / "asked"
    asked.touch()
    endpoint = Endpoint(id="union-0/0", url=f"http://127.0.0.1:{port}")
    argv = (sys.executable, "-c", BUSY, str(port), str(asked))
    plan = InstancePlan(
        instance=Instance(name="union-0", role=Role.UNION, models=("tiny",), engine="sim", endpoints=(endpoint,)),
        servers=(ServerPlan(name="union-0", endpoint=endpoint, argv=argv, env={}),),
    )
    async with watching(tmp_path, asks, plan) as one:
        await one.until(lambda report: asked.stat().st_size > 20)
        assert one.states == [EndpointState.STARTING, EndpointState.READY]


async def test_without_such_requests_it_is_not_found(tmp_path: Path) -> None:
    async with watching(tmp_path, HealthCheckConfig()) as one:
        one.fail("hang:path=/v1/completions")
        loaded = await one.until(lambda report: report.load_known)
        assert (loaded.state, loaded.running, loaded.waiting) == (EndpointState.READY, 0, 0)
