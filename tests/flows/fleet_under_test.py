"""Simulated engines and Coordinators as processes, for tests that send them real requests.

`Engines` are started once and are named by their role (`encode-0`, …); `plain` is a union engine that no
Coordinator knows and that says what is right. Any number of `Gateway`s, each with its own configuration and its own
view of the fleet, can stand before the same engines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import plain_http
from processes import PymotorProcess, wait_until

from free_ports import free_port
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
    ec_dialect,
    encode_snapshot,
    kv_dialect,
)
from pymotor.fleet.dialects import SGLANG_CONNECTOR

MODEL = "tiny"
PLAIN = "plain"
EXAMPLES = Path(__file__).parents[2] / "examples"

__all__ = ["MODEL", "PLAIN", "Engine", "Engines", "FleetUnderTest", "Gateway", "Role", "running_fleet"]


class Engine:
    """One simulated engine; keeps its port when it is started again."""

    def __init__(
        self,
        name: str,
        role: Role | None,
        directory: Path,
        flags: Sequence[str],
        connector: str,
        lease_seconds: float,
        ec_connector: str = "ECExampleConnector",
    ) -> None:
        self.name = name
        self.role = role
        self.identity = name
        """Its `engine_id`, by which others know it."""
        self.kv_connector = connector
        self.ec_connector = ec_connector
        self.lease_seconds = lease_seconds
        self.store = directory / "ec"
        self._directory = directory
        self._flags = list(flags)
        self.port = free_port()
        self._side_port = free_port()
        self._bootstrap_port = free_port()
        self._ec_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: PymotorProcess | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.alive

    def start(self) -> None:
        """Start the process; does not wait for it."""
        argv = ["sim-engine", "serve", MODEL, "--port", str(self.port), "--sim-control", *self._flags]
        if self.role in (Role.PREFILL, Role.DECODE) and self._is_sglang:
            argv += ["--disaggregation-mode", self.role.value]
            argv += ["--disaggregation-bootstrap-port", str(self._bootstrap_port)]
        elif self.role in (Role.PREFILL, Role.DECODE):
            transfer: dict[str, object] = {
                "kv_connector": self.kv_connector,
                "kv_role": "kv_producer" if self.role is Role.PREFILL else "kv_consumer",
                "engine_id": self.identity,
                "kv_connector_extra_config": {
                    "shared_storage_path": str(self._directory / "kv"),
                    "kv_lease_duration": self.lease_seconds,
                },
            }
            argv += ["--kv-transfer-config", json.dumps(transfer)]
        if self._reads_embeddings or self.role is Role.ENCODE:
            transfer = {
                "ec_connector": self.ec_connector,
                "ec_role": "ec_producer" if self.role is Role.ENCODE else "ec_consumer",
                "ec_port": self._ec_port,
                "ec_connector_extra_config": {
                    "shared_storage_path": str(self.store),
                    "ec_enable_nixl": True,
                    "ec_cpu_bytes": 1 << 30,
                    "push_wait_timeout_s": 2,
                },
            }
            argv += ["--ec-transfer-config", json.dumps(transfer)]
        environment = {
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(self._side_port),
            "VLLM_MOONCAKE_BOOTSTRAP_PORT": str(self._bootstrap_port),
            "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": "5",
            "VLLM_EC_SIDE_CHANNEL_PORT": str(self._ec_port),
        }
        self.process = PymotorProcess(argv, self._directory / f"{self.name}.log", environment)

    @property
    def _is_sglang(self) -> bool:
        return self.kv_connector.startswith(SGLANG_CONNECTOR)

    @property
    def _reads_embeddings(self) -> bool:
        return self.role is Role.UNION or (self.role is Role.PREFILL and not self._is_sglang)

    def wait(self) -> None:
        """Wait until it is healthy."""
        assert self.process is not None
        self.process.wait_until_ok(f"{self.url}/health")

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.kill()

    def mend(self) -> None:
        """Running and without faults, whatever happened to it."""
        if self.alive and self.state()["dead"]:
            self.kill()
        if not self.alive:
            self.start()
            self.wait()
        self.fail()

    def fail(self, *faults: str) -> None:
        """Fail on purpose from now on in these ways only; see docs/simulated-engine.md."""
        plain_http.delete(f"{self.url}/sim/faults", timeout=60).raise_for_status()
        if faults:
            plain_http.post(f"{self.url}/sim/faults", json={"faults": faults}, timeout=60).raise_for_status()

    def state(self) -> dict[str, Any]:
        """What the engine has in hand: see docs/simulated-engine.md."""
        reply = plain_http.get(f"{self.url}/sim/state", timeout=60).raise_for_status()
        found: dict[str, Any] = reply.json()
        return found

    def in_hand(self) -> dict[str, int]:
        """What of its state is not zero though it should be when nobody asks for anything."""
        state = self.state()
        held = (
            "running",
            "waiting",
            "waiting_for_kv",
            "transfers",
            "leases",
            "embeddings_moving",
            "embeddings_held",
            "blocks_used",
        )
        return {name: state[name] for name in held if state[name]}

    def metric(self, name: str, **labels: str) -> float:
        """One figure of its /metrics, summed over the label values not named."""
        from prometheus_client.parser import text_string_to_metric_families

        text = plain_http.get(f"{self.url}/metrics", timeout=60).raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def instance(self, **changes: object) -> Instance:
        """What a Coordinator is told of it; `changes` are other fields of the instance."""
        role = self.role or Role.UNION
        produces, consumes = role is Role.PREFILL, role is Role.DECODE
        dialect = KVDialect.PAIRED if self._is_sglang else kv_dialect(self.kv_connector)
        assert dialect is not None, f"nobody knows how {self.kv_connector} hands over"
        kv = KVTransfer(
            connector=self.kv_connector,
            dialect=dialect,
            produces=produces,
            consumes=consumes,
            handoff_seconds=self.lease_seconds if dialect is KVDialect.PULL else None,
            bootstrap=f"http://127.0.0.1:{self._bootstrap_port}" if dialect is KVDialect.PAIRED and produces else "",
        )
        embeddings = ec_dialect(self.ec_connector)
        assert embeddings is not None, f"nobody knows how {self.ec_connector} hands over"
        pushed_to = embeddings is ECDialect.PUSH and role is not Role.ENCODE
        ec = ECTransfer(
            connector=self.ec_connector,
            dialect=embeddings,
            produces=role is Role.ENCODE,
            consumes=role is not Role.ENCODE,
            store=str(self.store) if embeddings is ECDialect.STORE else None,
            address=f"tcp://127.0.0.1:{self._ec_port}" if pushed_to else "",
        )
        state = EndpointState.READY if self.alive else EndpointState.GONE
        told = Instance(
            name=self.name,
            role=role,
            models=(MODEL,),
            engine="sim",
            state=InstanceState.ACTIVE if self.alive else InstanceState.INACTIVE,
            endpoints=(Endpoint(id=f"{self.name}/0", url=self.url, state=state),),
            kv=kv if produces or consumes else None,
            ec=ec if self._reads_embeddings or role in (Role.ENCODE, Role.UNION) else None,
            pairing=MODEL,
            max_model_len=32768,
        )
        return msgspec.structs.replace(told, **changes)


class Engines:
    """Engines by name. Use as a context manager."""

    def __init__(
        self,
        directory: Path,
        roles: Mapping[Role, int],
        *,
        flags: Sequence[str] | Callable[[], Sequence[str]] = (),
        kv_connector: str = "NixlConnector",
        kv_lease_seconds: float = 30.0,
        ec_connector: str = "ECExampleConnector",
        plain: bool = True,
    ) -> None:
        """`flags`: words of each engine's command line, or what makes them for one engine."""
        (directory / "ec").mkdir(parents=True, exist_ok=True)
        self.directory = directory

        def own_flags() -> Sequence[str]:
            return flags() if callable(flags) else flags

        names = [(f"{role.value}-{number}", role) for role, count in roles.items() for number in range(count)]
        self.by_name = {
            name: Engine(name, role, directory, own_flags(), kv_connector, kv_lease_seconds, ec_connector)
            for name, role in names
        }
        if plain:
            self.by_name[PLAIN] = Engine(PLAIN, None, directory, own_flags(), kv_connector, kv_lease_seconds)

    def __enter__(self) -> Engines:
        try:
            for engine in self:
                engine.start()
            for engine in self:
                engine.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Engine]:
        return iter(self.by_name.values())

    def __getitem__(self, name: str) -> Engine:
        return self.by_name[name]

    @property
    def fleet(self) -> list[str]:
        """The names of all engines but the plain one."""
        return [name for name in self.by_name if name != PLAIN]

    def restore(self) -> None:
        """All engines running and without faults, whatever a test did to them."""
        for engine in self:
            engine.mend()

    def close(self) -> None:
        """End all processes."""
        processes = [engine.process for engine in self if engine.process is not None]
        for process in processes:
            process.ask_to_end()
        for process in processes:
            process.end()


class Gateway:
    """A Coordinator before some of the engines. Use as a context manager."""

    def __init__(
        self,
        engines: Engines,
        names: Sequence[str] | None = None,
        *,
        config: Mapping[str, object] | None = None,
        workers: int = 1,
        label: str = "gateway",
        controllers: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`names`: the engines it knows, all but the plain one by default; `config`: its
        `motor_coordinator_config`; `controllers`: URLs of Controllers that tell it of the fleet instead of a file;
        `environment`: what it has beside ours."""
        self.engines = engines
        self.names = list(engines.fleet if names is None else names)
        self.changes: dict[str, dict[str, object]] = {}
        """Fields of instances that differ from what `Engine.instance` says, by engine name."""
        self._workers = workers
        self._controllers = ",".join(controllers)
        self._environment = dict(environment or {})
        self._directory = Path(tempfile.mkdtemp(prefix=f"{label}-", dir=engines.directory))
        self._user_config = json.loads((EXAMPLES / "infer_engines/sim/epd/user_config.json").read_text())
        self._user_config["motor_coordinator_config"] = dict(config or {})
        self.config_file = self._directory / "user_config.json"
        self.fleet_file = self._directory / "fleet.json"
        self._version = 0
        self.port, management, observability = (free_port() for _ in range(3))
        self._ports = [str(self.port), str(management), str(observability)]
        self.url = f"http://127.0.0.1:{self.port}"
        self.management_url = f"http://127.0.0.1:{management}"
        self.observability_url = f"http://127.0.0.1:{observability}"
        self.process: PymotorProcess

    def __enter__(self) -> Gateway:
        told_by = ["--controller", self._controllers] if self._controllers else ["--fleet", str(self.fleet_file)]
        if not self._controllers:
            self.write_fleet()
        self.write_config(self._user_config["motor_coordinator_config"])
        port, management, observability = self._ports
        self.process = PymotorProcess(
            [
                "coordinator", "--user_config_path", str(self.config_file), *told_by,
                "--port", port, "--management-port", management, "--observability-port", observability,
                "--workers", str(self._workers), "--server-timing", "on",
            ],
            self._directory / "coordinator.log",
            self._environment,
        )  # fmt: skip
        try:
            self.process.wait_until_ok(f"{self.management_url}/startup")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its processes."""
        self.process.end()

    def write_fleet(self) -> None:
        """Tell it which of its engines are alive now."""
        self._version += 1
        instances = [self.engines[name].instance(**self.changes.get(name, {})) for name in self.names]
        temporary = self.fleet_file.with_suffix(".new")
        temporary.write_bytes(encode_snapshot(FleetSnapshot(version=self._version, instances=tuple(instances))))
        temporary.replace(self.fleet_file)

    def write_config(self, coordinator: Mapping[str, object]) -> str:
        """Write its `user_config.json` with this `motor_coordinator_config`; returns the file's SHA-256."""
        self._user_config["motor_coordinator_config"] = dict(coordinator)
        content = json.dumps(self._user_config).encode()
        temporary = self.config_file.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(self.config_file)
        return hashlib.sha256(content).hexdigest()

    def configure(self, **coordinator: object) -> None:
        """Write its configuration and wait until all workers have it."""
        revision = self.write_config(coordinator)
        wait_until(lambda: self.config()["revision"] == revision, "the new configuration is in force")

    def config(self) -> dict[str, Any]:
        """`GET /config`."""
        found: dict[str, Any] = plain_http.get(f"{self.management_url}/config", timeout=60).raise_for_status().json()
        return found

    def use(self, *names: str) -> None:
        """Stand before these engines from now on. Workers learn of it a moment later: wait for what is expected."""
        self.names = list(names)
        self.write_fleet()
        self.wait_version(self._version)

    def wait_version(self, version: int) -> None:
        """Wait until it has this version of the fleet."""
        wait_until(lambda: self.fleet()["version"] == version, f"version {version} of the fleet is taken")

    def log(self) -> str:
        """What it has logged so far."""
        return self.process.log.read_text(errors="replace")

    def is_ready(self) -> bool:
        """Whether it says that it can serve."""
        return plain_http.get(f"{self.management_url}/readiness", timeout=60).status_code == 200

    def fleet(self) -> dict[str, Any]:
        """`GET /instances`."""
        found: dict[str, Any] = plain_http.get(f"{self.management_url}/instances", timeout=60).raise_for_status().json()
        return found

    def loads(self) -> dict[str, tuple[float, int]]:
        """Load in tokens and requests in flight of every endpoint, as the ledger has them."""
        return {
            endpoint["id"]: (endpoint["load_tokens"], endpoint["in_flight"])
            for instance in self.fleet()["instances"]
            for endpoint in instance["endpoints"]
        }

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Wait until the ledger is exactly zero. Raises `AssertionError` with what is left."""
        ends = time.monotonic() + seconds
        loads = self.loads()
        while any(load != (0.0, 0) for load in loads.values()):
            assert time.monotonic() < ends, f"the ledger is not zero: {loads}"
            time.sleep(0.02)
            loads = self.loads()

    def metrics(self) -> str:
        """Prometheus text of the whole Coordinator."""
        return plain_http.get(f"{self.observability_url}/metrics", timeout=60).raise_for_status().text

    def count(self, name: str, **labels: str) -> float:
        """One figure of /metrics, summed over the label values not named."""
        from prometheus_client.parser import text_string_to_metric_families

        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class FleetUnderTest:
    """Engines and one Gateway that knows them all. Use as a context manager."""

    def __init__(
        self,
        directory: Path,
        roles: Mapping[Role, int],
        *,
        coordinator_config: Mapping[str, object] | None = None,
        engine_flags: Sequence[str] = (),
        workers: int = 1,
        kv_connector: str = "NixlConnector",
        plain: bool = True,
    ) -> None:
        self.engines = Engines(directory, roles, flags=engine_flags, kv_connector=kv_connector, plain=plain)
        self.gateway = Gateway(self.engines, config=coordinator_config, workers=workers)

    def __enter__(self) -> FleetUnderTest:
        with contextlib.ExitStack() as opened:
            opened.enter_context(self.engines)
            opened.enter_context(self.gateway)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def url(self) -> str:
        """Where clients send requests."""
        return self.gateway.url

    @property
    def management_url(self) -> str:
        """`/instances` and probes."""
        return self.gateway.management_url

    @property
    def observability_url(self) -> str:
        """`/metrics`."""
        return self.gateway.observability_url

    @property
    def urls(self) -> dict[str, str]:
        """The engines' own addresses, by name."""
        return {engine.name: engine.url for engine in self.engines}

    def loads(self) -> list[tuple[float, int]]:
        """Load in tokens and requests in flight of every endpoint."""
        return list(self.gateway.loads().values())


@contextlib.contextmanager
def running_fleet(directory: Path, roles: Mapping[Role, int], **options: Any) -> Iterator[FleetUnderTest]:
    """A fleet for the length of a `with` block."""
    with FleetUnderTest(directory, roles, **options) as fleet:
        yield fleet
