"""A Coordinator as a process, and what tests ask it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from pymotor.fleet import FleetSnapshot, encode_snapshot

HERE = Path(__file__).parent
DEADLINE = 90.0
T = TypeVar("T")
MINIMAL_CONFIG = {
    "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu", "image_name": "none"},
    "motor_engine_union_config": {"engine_type": "sim", "engine_config": {"model": "tiny"}},
}


def wait_for(condition: Callable[[], T], what: str) -> T:
    """The first true value of `condition`; fails the test when none comes."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.01)
    return value


def gone(pids: list[int]) -> bool:
    """Whether none of these processes runs; one that only waits for its parent's notice does not."""
    return not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Coordinator:
    """A running `pymotor coordinator` and its files."""

    def __init__(self, process: subprocess.Popen[str], directory: Path, ports: tuple[int, int, int]) -> None:
        self.process = process
        self.fleet_path = directory / "fleet.json"
        self.log_path = directory / "log"
        self.port, self.management_port, self.observability_port = ports

    def write_fleet(self, snapshot: FleetSnapshot) -> None:
        temporary = self.fleet_path.with_suffix(".new")
        temporary.write_bytes(encode_snapshot(snapshot))
        temporary.rename(self.fleet_path)

    def ask(self, command: str) -> Any:
        """What one of the stand-in workers answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(command.encode() + b"\n")
            return json.loads(connection.makefile().readline())

    def get(self, path: str) -> httpx.Response:
        """An answer of the management server."""
        return httpx.get(f"http://127.0.0.1:{self.management_port}{path}", timeout=DEADLINE)

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.observability_port}/metrics", timeout=DEADLINE).text

    def worker_pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def log(self) -> str:
        return self.log_path.read_text()

    def wait_logged(self, text: str) -> None:
        wait_for(lambda: text in self.log(), f"{text!r} in the log")

    def wait_version(self, version: int) -> dict[str, Any]:
        """The answer of /instances once the fleet has this version."""
        return wait_for(
            lambda: (report := self.get("/instances").json())["version"] == version and report,
            f"fleet version {version}",
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


def launch(
    directory: Path,
    *options: str,
    worker_module: str = "stand_in_worker",
    environment: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[str]:
    """Start it; its log goes to `log` in the directory."""
    config = directory / "user_config.json"
    config.write_text(json.dumps(MINIMAL_CONFIG))
    search_path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (directory / "log").open("w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, str(HERE / "run_coordinator.py"), worker_module),
                *("--user_config_path", str(config), "--fleet", str(directory / "fleet.json")),
                *("--port", "0", "--management-port", "0", "--observability-port", "0", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": search_path} | (environment or {}),
            pass_fds=pass_fds,
        )


@contextmanager
def running(directory: Path, *options: str, **how: Any) -> Iterator[Coordinator]:
    """A Coordinator that is ready; killed at the end of the block if it still runs."""
    process = launch(directory, *options, **how)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"pymotor coordinator ready on http://127\.0\.0\.1:(\d+)\n", line)
        assert found, f"{line!r}; log: {(directory / 'log').read_text()}"
        listening = sorted(
            connection.laddr.port
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        )
        admin = re.search(
            r"management on http://127\.0\.0\.1:(\d+), metrics on http://127\.0\.0\.1:(\d+)",
            (directory / "log").read_text(),
        )
        assert admin, (directory / "log").read_text()
        ports = (int(found[1]), int(admin[1]), int(admin[2]))
        assert listening == sorted(ports[1:])
        yield Coordinator(process, directory, ports)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
