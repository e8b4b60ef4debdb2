"""A fleet of simulated engines and a Coordinator as processes, for tests that send it real requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from pymotor.fleet import (
    ECDialect,
    ECTransfer,
    Endpoint,
    EndpointState,
    FleetSnapshot,
    Instance,
    InstanceState,
    KVDialect,
    KVTransfer,
    Role,
    encode_snapshot,
)

MODEL = "tiny"
EXAMPLES = Path(__file__).parents[2] / "examples"
START_SECONDS = 30.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ok(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = START_SECONDS) -> None:
    """Wait until GET answers 200. Raises when the process ends first or the time is up."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer 200 within {seconds:g} s:\n{log.read_text()[-3000:]}")


class FleetUnderTest:
    """Engines by name (`encode-0`, …), a plain union engine beside them that the Coordinator does not know, and the
    Coordinator. Use as a context manager."""

    def __init__(
        self,
        directory: Path,
        roles: Mapping[Role, int],
        *,
        coordinator_config: Mapping[str, object] | None = None,
        engine_flags: Sequence[str] = (),
        workers: int = 1,
        kv_connector: str = "NixlConnector",
    ) -> None:
        self.directory = directory
        self.roles = dict(roles)
        self.engine_flags = list(engine_flags)
        self.workers = workers
        self.kv_connector = kv_connector
        self.config = json.loads((EXAMPLES / "infer_engines/sim/epd/user_config.json").read_text())
        self.config["motor_coordinator_config"] = dict(coordinator_config or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.urls: dict[str, str] = {}
        self.version = 0
        self.url = ""
        self.management_url = ""
        self.observability_url = ""
        self.fleet_file = directory / "fleet.json"
        self.store = directory / "ec"

    def __enter__(self) -> FleetUnderTest:
        self.store.mkdir(parents=True, exist_ok=True)
        try:
            for role, count in self.roles.items():
                for number in range(count):
                    self._start_engine(f"{role.value}-{number}", role)
            self._start_engine("plain", None)
            for name in self.urls:
                wait_until_ok(f"{self.urls[name]}/health", self.processes[name], self._log(name))
            self.write_fleet()
            self._start_coordinator()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "pymotor", *argv],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def _start_engine(self, name: str, role: Role | None) -> None:
        port = free_port()
        argv = ["sim-engine", "serve", MODEL, "--port", str(port), "--sim-control", *self.engine_flags]
        if role in (Role.PREFILL, Role.DECODE):
            transfer = {
                "kv_connector": self.kv_connector,
                "kv_role": "kv_producer" if role is Role.PREFILL else "kv_consumer",
                "engine_id": name,
                "kv_connector_extra_config": {"shared_storage_path": str(self.directory / "kv")},
            }
            argv += ["--kv-transfer-config", json.dumps(transfer)]
        if role in (Role.ENCODE, Role.PREFILL, Role.UNION):
            transfer = {
                "ec_connector": "ECExampleConnector",
                "ec_role": "ec_producer" if role is Role.ENCODE else "ec_consumer",
                "ec_connector_extra_config": {"shared_storage_path": str(self.store)},
            }
            argv += ["--ec-transfer-config", json.dumps(transfer)]
        self._spawn(name, argv, {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())})
        self.urls[name] = f"http://127.0.0.1:{port}"

    def snapshot(self) -> FleetSnapshot:
        """The fleet as the Coordinator is told."""
        return FleetSnapshot(
            version=self.version,
            instances=tuple(
                self._instance(f"{role.value}-{number}", role)
                for role, count in self.roles.items()
                for number in range(count)
            ),
        )

    def _instance(self, name: str, role: Role) -> Instance:
        produces, consumes = role is Role.PREFILL, role is Role.DECODE
        dialect = KVDialect.STORE if self.kv_connector == "ExampleConnector" else KVDialect.PULL
        kv = KVTransfer(
            connector=self.kv_connector,
            dialect=dialect,
            produces=produces,
            consumes=consumes,
            handoff_seconds=30.0 if dialect is KVDialect.PULL else None,
        )
        ec = ECTransfer(
            connector="ECExampleConnector",
            dialect=ECDialect.STORE,
            produces=role is Role.ENCODE,
            consumes=role is not Role.ENCODE,
            store=str(self.store),
        )
        alive = self.processes[name].poll() is None
        return Instance(
            name=name,
            role=role,
            models=(MODEL,),
            engine="sim",
            state=InstanceState.ACTIVE if alive else InstanceState.INACTIVE,
            endpoints=(
                Endpoint(
                    id=f"{name}/0",
                    url=self.urls[name],
                    state=EndpointState.READY if alive else EndpointState.GONE,
                ),
            ),
            kv=kv if produces or consumes else None,
            ec=ec if role is not Role.DECODE else None,
            pairing=MODEL,
            max_model_len=32768,
            allowed_local_media_path="",
        )

    def write_fleet(self) -> None:
        """Tell the Coordinator what is alive now."""
        self.version += 1
        temporary = self.fleet_file.with_suffix(".new")
        temporary.write_bytes(encode_snapshot(self.snapshot()))
        temporary.replace(self.fleet_file)

    def _start_coordinator(self) -> None:
        config = self.directory / "user_config.json"
        config.write_text(json.dumps(self.config))
        ports = [free_port() for _ in range(3)]
        self._spawn(
            "coordinator",
            [
                "coordinator", "--user_config_path", str(config), "--fleet", str(self.fleet_file),
                "--port", str(ports[0]), "--management-port", str(ports[1]), "--observability-port", str(ports[2]),
                "--workers", str(self.workers), "--server-timing", "on",
            ],
        )  # fmt: skip
        self.url, self.management_url, self.observability_url = (f"http://127.0.0.1:{port}" for port in ports)
        wait_until_ok(f"{self.url}/readiness", self.processes["coordinator"], self._log("coordinator"))

    def loads(self) -> list[tuple[float, int]]:
        """Load in tokens and requests in flight of every endpoint, as the Coordinator's ledger has them."""
        reply = httpx.get(f"{self.management_url}/instances", timeout=5).json()
        return [
            (endpoint["load_tokens"], endpoint["in_flight"])
            for instance in reply["instances"]
            for endpoint in instance["endpoints"]
        ]

    def set_faults(self, name: str, faults: object) -> None:
        """Tell a simulated engine to fail; see docs/simulated-engine.md."""
        httpx.post(f"{self.urls[name]}/sim/faults", json=faults, timeout=5).raise_for_status()


@contextlib.contextmanager
def running_fleet(directory: Path, roles: Mapping[Role, int], **options: object) -> Iterator[FleetUnderTest]:
    """A fleet for the length of a `with` block."""
    with FleetUnderTest(directory, roles, **options) as fleet:  # type: ignore[arg-type]
        yield fleet
