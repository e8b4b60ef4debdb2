"""What a Controller costs as its fleet grows: CPU, memory, and how fast a change reaches a Coordinator.

One Controller process; its NodeManagers are connections of this process that report as real ones do: one report that
waits, and one at each change. Each has an instance of four endpoints. For every size: the CPU time of the Controller in
a quiet minute of heartbeats, its memory, and the time from a report that an endpoint is unhealthy until the snapshot
that says so has reached a watching Coordinator.

  python benchmarks/controller_scale.py
  python benchmarks/controller_scale.py --nodes 10 100 --seconds 10

Exit status: 0 measured, 1 the Controller failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from msgspec.structs import replace

from pymotor.fleet import (
    Endpoint,
    EndpointState,
    FleetSnapshot,
    FleetWatch,
    Instance,
    InstanceState,
    NodeOrder,
    NodeReport,
    ReportReply,
    Role,
    ServerReport,
    decode_message,
    decode_snapshot,
    encode_message,
    encode_snapshot,
)

RESULTS = Path(__file__).resolve().parent / "results" / "controller_scale"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples/infer_engines/sim/epd/user_config.json"
TOKEN = "a-token-for-a-benchmark"
ENDPOINTS = 4
CHANGES = 30
WAIT_SECONDS = 3.0
logger = logging.getLogger("controller_scale")


class Connection:
    """One HTTP/1.1 connection that is kept, for JSON POSTs one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = (
            f"POST {path} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        return status, await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


class Node:
    """One NodeManager without engines."""

    def __init__(self, number: int, port: int) -> None:
        self._waiting = Connection(port)
        self._urgent = Connection(port)
        self._report = NodeReport(
            node=f"node-{number}",
            incarnation=f"incarnation-{number}",
            sequence=0,
            job="scale",
            role=Role.UNION,
            address=f"10.0.{number // 250}.{number % 250}",
            machine=f"machine-{number}",
        )
        self._order: NodeOrder | None = None
        self.state = EndpointState.READY

    async def run(self) -> None:
        """Report for ever."""
        while True:
            await self._send(self._waiting, WAIT_SECONDS)

    async def say(self, state: EndpointState) -> None:
        """Its first endpoint is in another state: report at once."""
        self.state = state
        await self._send(self._urgent, 0.0)

    def close(self) -> None:
        self._waiting.close()
        self._urgent.close()

    async def _send(self, connection: Connection, wait: float) -> None:
        self._report = report = self._next(wait)
        status, body = await connection.post("/nodes/report", encode_message(report))
        if status == 409:
            return  # the other connection's report was faster
        if status != 200:
            raise RuntimeError(f"{report.node}: {status} {body[:200]!r}")
        order = decode_message(body, ReportReply).order
        if order is not None and (self._order is None or order.age > self._order.age):
            self._order = order

    def _next(self, wait: float) -> NodeReport:
        report = replace(self._report, sequence=self._report.sequence + 1, wait_seconds=wait, held=self._order)
        order = self._order
        if order is None or not order.instance:
            return report
        endpoints = tuple(
            Endpoint(
                id=f"{order.instance}/{rank}",
                url=f"http://{report.address}:{10000 + rank}",
                state=self.state if rank == 0 else EndpointState.READY,
            )
            for rank in range(ENDPOINTS)
        )
        servers = tuple(
            ServerReport(name=f"{order.instance}-rank-{rank}", state=endpoint.state, endpoint_id=endpoint.id)
            for rank, endpoint in enumerate(endpoints)
        )
        share = Instance(
            name=order.instance, role=Role.UNION, models=("model",), engine="vllm", endpoints=endpoints, pairing="same"
        )
        return replace(report, share=share, servers=servers, started_generation=order.generation)


class Watcher:
    """A Coordinator that only watches."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(port)
        self.snapshot = FleetSnapshot(epoch=-1, version=-1)
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            watch = FleetWatch(
                coordinator="watcher", epoch=self.snapshot.epoch, version=self.snapshot.version, wait_seconds=5.0
            )
            status, body = await self._connection.post("/fleet/watch", encode_message(watch))
            if status == 200:
                self.snapshot = decode_snapshot(body)
                self.changed.set()

    async def until(self, state: InstanceState, number: int) -> None:
        """Return when so many instances are in a state."""
        while sum(instance.state is state for instance in self.snapshot.instances) < number:
            self.changed.clear()
            await self.changed.wait()


@dataclass
class Figures:
    """Of one size."""

    nodes: int
    endpoints: int
    cpu_seconds_per_minute: float
    cpu_microseconds_per_report: float
    resident_megabytes: float
    assembled_seconds: float
    snapshot_bytes: int
    change_seen_ms_median: float
    change_seen_ms_worst: float


async def measure(nodes: int, seconds: float, directory: Path) -> Figures:
    """One Controller with so many nodes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    state = directory / f"state-{nodes}"
    state.mkdir()
    words = ["controller", "--user_config_path", str(EXAMPLE), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--state-dir", str(state), "--name", "controller"]
    log = (directory / f"controller-{nodes}.log").open("wb")
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "pymotor", *words],
        stdout=log,
        stderr=log,
        env={**os.environ, "PYMOTOR_CLUSTER_TOKEN": TOKEN},
    )
    tasks: list[asyncio.Task[None]] = []
    fleet = [Node(number, port) for number in range(nodes)]
    try:
        await _answers(port, process)
        watcher = Watcher(port)
        began = time.monotonic()
        tasks = [asyncio.create_task(one.run()) for one in (watcher, *fleet)]
        await _unless_failed(tasks, watcher.until(InstanceState.ACTIVE, nodes), 300)
        assembled = time.monotonic() - began
        controller = psutil.Process(process.pid)
        before = controller.cpu_times()
        await asyncio.sleep(seconds)
        after = controller.cpu_times()
        cpu = after.user + after.system - before.user - before.system
        delays = []
        for number in range(CHANGES):
            node = fleet[number * 7 % nodes]
            asked = time.monotonic()
            saying = asyncio.create_task(node.say(EndpointState.UNHEALTHY))
            await _unless_failed(tasks, watcher.until(InstanceState.INACTIVE, 1), 30)
            delays.append(time.monotonic() - asked)
            await saying
            await node.say(EndpointState.READY)
            await _unless_failed(tasks, watcher.until(InstanceState.ACTIVE, nodes), 30)
        return Figures(
            nodes=nodes,
            endpoints=nodes * ENDPOINTS,
            cpu_seconds_per_minute=round(cpu * 60 / seconds, 3),
            cpu_microseconds_per_report=round(cpu / (nodes * seconds / WAIT_SECONDS) * 1e6, 1),
            resident_megabytes=round(controller.memory_info().rss / 1e6, 1),
            assembled_seconds=round(assembled, 2),
            snapshot_bytes=len(encode_snapshot(watcher.snapshot)),
            change_seen_ms_median=round(statistics.median(delays) * 1000, 1),
            change_seen_ms_worst=round(max(delays) * 1000, 1),
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in fleet:
            node.close()
        process.terminate()
        process.wait(10)
        log.close()


async def _answers(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the Controller leads and takes reports. Raises `RuntimeError` when it ends."""
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the Controller ended with {process.returncode}")
        try:
            connection = Connection(port)
            status, _ = await connection.post("/fleet/watch", encode_message(FleetWatch(coordinator="first look")))
            connection.close()
            if status in (200, 204):
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.1)


async def _unless_failed(tasks: list[asyncio.Task[None]], wanted: object, seconds: float) -> None:
    """Wait for it; raises what ended one of the tasks before."""
    waiting = asyncio.ensure_future(wanted)  # type: ignore[arg-type]
    done, _ = await asyncio.wait([waiting, *tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if waiting not in done:
        waiting.cancel()
        for task in done:
            task.result()
        raise RuntimeError(f"not within {seconds:g} s")


def main() -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="+", type=int, default=[10, 100, 1000], metavar="N", help="sizes to measure")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of quiet heartbeats")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for nodes in arguments.nodes:
            try:
                figures = asyncio.run(measure(nodes, arguments.seconds, Path(directory)))
            except RuntimeError as error:
                log = (Path(directory) / f"controller-{nodes}.log").read_text(errors="replace")
                logger.error("%d nodes: %s\n%s", nodes, error, log[-3000:])
                return 1
            logger.info("%s", json.dumps(asdict(figures)))
            found.append(figures)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "figures.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    logger.info("written to %s", arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
