"""The gateways that are compared: how each is started before a fleet of fake engines, and what is on in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from overhead.processes import Pinned
from overhead.questions import CLIENTS_KEY
from overhead.trace_sink import TraceSink
from overhead.wire import MODEL

BENCHMARKS = Path(__file__).resolve().parent.parent
PEERS = Path(os.environ.get("PYMOTOR_BENCH_VENV", BENCHMARKS.parent / ".venv-bench"))
"""The virtual environment that `setup.sh` makes, with vllm-router and py-spy."""
PYTHON = os.environ.get("PYMOTOR_BENCH_PYTHON", sys.executable)
"""What runs PyMotor. How an interpreter was built decides a third of its speed: a distribution's is optimised, one that
was compiled without further options is not."""
EMBEDDINGS = {"ec_connector": "ECExampleConnector"}
_SALT = "0" * 32
_HASH = hashlib.pbkdf2_hmac("sha256", CLIENTS_KEY, _SALT.encode(), 100_000).hex()
_MANY = 10**12
_KEYS = {"api_key_config": {"enable_api_key": True, "valid_keys": [f"{_SALT}:100000:{_HASH}"]}}
_LIMITS = {
    "rate_limit_config": {
        "enable_rate_limit": True,
        **dict.fromkeys(("max_requests", "max_tokens", "key_max_requests", "key_max_tokens"), _MANY),
    },
}
CONFIGURABLE = 16
"""The most instances of a role that `user_config.json` starts; a Coordinator serves as many as the snapshot has."""


@dataclass(frozen=True)
class EngineFleet:
    """The ports of 127.0.0.1 on which fake engines listen, by role."""

    prefill: tuple[int, ...]
    decode: tuple[int, ...]
    union: tuple[int, ...]
    control: int
    encode: tuple[int, ...] = ()

    @property
    def endpoints(self) -> int:
        """How many there are, encoders not counted."""
        return len(self.prefill) + len(self.decode) + len(self.union)

    @property
    def mode(self) -> str:
        """`union`, `pd` where prefill and decode are apart, `epd` with encoders before them."""
        return "union" if self.union else "epd" if self.encode else "pd"


class Gateway(ABC):
    """One gateway with its settings."""

    name: str
    modes: frozenset[str]
    encodes = False
    """Whether it sends media to encoders."""
    what_is_on: tuple[str, ...]

    @abstractmethod
    def version(self) -> str | None:
        """Its version, or None where it is not installed."""

    @abstractmethod
    def start(self, fleet: EngineFleet, directory: Path, core: int) -> tuple[Pinned, int]:
        """Starts it and waits until it serves; returns its process and its port.

        Raises ProcessError when it does not get there.
        """


class PyMotor(Gateway):
    """`pymotor coordinator` before a fleet snapshot in a file."""

    modes = frozenset({"union", "pd", "epd"})
    encodes = True

    def __init__(
        self,
        workers: int = 1,
        carries_on: bool = False,
        name: str = "pymotor",
        *,
        keys: bool = False,
        limits: bool = False,
        traced: float = 0.0,
        policy: str = "load_balance",
    ) -> None:
        """`carries_on`: token ids of streams are kept, so that another decode can go on with them. `keys`: the clients'
        key is checked. `limits`: requests and tokens are limited, by limits that are never reached. `traced`: the part
        of the requests whose traces are exported. `policy`: `scheduler_type`."""
        self._guarded = {**(_KEYS if keys else {}), **(_LIMITS if limits else {})}
        self._traced = traced
        self._policy = policy
        self._sink: TraceSink | None = None
        self.name = name
        self._workers = workers
        self._carries_on = carries_on
        self.what_is_on = (
            f"{workers} worker process{'es' if workers > 1 else ''} and the supervisor, all counted",
            f"policy `{policy}` with its reservations in shared memory",
            "retries, deadlines, back-pressure, limits of header and body size",
            "refusal of clients' own `kv_transfer_params` and other barred fields",
            "metrics for Prometheus, `Server-Timing` header",
            f"`recompute_enabled` {'on: token ids of streams are asked for and kept' if carries_on else 'off'}",
            f"API keys {'on' if keys else 'off'}, limits of requests and tokens {'on' if limits else 'off'}",
            f"traces of {traced:.0%} of the requests",
        )

    def version(self) -> str | None:
        try:
            return version("pymotor")
        except PackageNotFoundError:
            return None

    def start(self, fleet: EngineFleet, directory: Path, core: int) -> tuple[Pinned, int]:
        port, management, observability = free_ports(3)
        config = directory / "user_config.json"
        config.write_text(json.dumps(self._user_config(fleet), indent=2))
        snapshot = directory / "fleet.json"
        snapshot.write_bytes(fleet_snapshot(fleet))
        argv = [PYTHON, "-m", "pymotor", "coordinator"]
        argv += ["--user_config_path", str(config), "--fleet", str(snapshot), "--host", "127.0.0.1"]
        argv += ["--port", str(port), "--management-port", str(management)]
        argv += ["--observability-port", str(observability)]
        argv += ["--workers", str(self._workers), "--server-timing", "on"]
        process = Pinned(self.name, argv, core, directory / f"{self.name}.log")
        return _ready(process, port, f"http://127.0.0.1:{management}/readiness", 60)

    def _user_config(self, fleet: EngineFleet) -> dict[str, object]:
        engine = {"served_model_name": MODEL, "model": MODEL, "tensor_parallel_size": 1}
        transfer = {"kv_connector": "NixlConnector"}
        deploy: dict[str, object] = {"job_id": "gateway-overhead", "hardware_type": "cpu"}
        config: dict[str, object] = {"version": "v2.0", "motor_deploy_config": deploy, "motor_controller_config": {}}
        config["motor_coordinator_config"] = {
            "scheduler_config": {"scheduler_type": self._policy},
            "exception_config": {"recompute_enabled": self._carries_on},
            # Each image of a run is sent many times; all are to be encoded.
            "encode_config": {"reuse_seconds": 0},
            **self._guarded,
            **self._tracing(),
        }
        if fleet.union:
            deploy["hybrid_instances_num"] = min(len(fleet.union), CONFIGURABLE)
            config["motor_engine_union_config"] = {"engine_type": "vllm", "engine_config": engine}
            return config
        if fleet.encode:
            deploy["e_instances_num"] = min(len(fleet.encode), CONFIGURABLE)
            config["motor_engine_encode_config"] = {
                "engine_type": "vllm",
                "engine_config": {**engine, "ec_transfer_config": {**EMBEDDINGS, "ec_role": "ec_producer"}},
            }
        deploy["p_instances_num"] = min(len(fleet.prefill), CONFIGURABLE)
        deploy["d_instances_num"] = min(len(fleet.decode), CONFIGURABLE)
        for role, kv_role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
            config[f"motor_engine_{role}_config"] = {
                "engine_type": "vllm",
                "engine_config": {**engine, "kv_transfer_config": {**transfer, "kv_role": kv_role}},
            }
        return config

    def _tracing(self) -> dict[str, object]:
        if not self._traced:
            return {}
        if self._sink is None:
            self._sink = TraceSink()
        return {"tracer_config": {"endpoint": self._sink.url, "root_sampling_rate": self._traced}}


class PyMotorProxy(PyMotor):
    """`pymotor proxy`: the same gateway before engines that flags name."""

    modes = frozenset({"union", "pd"})
    encodes = False

    def __init__(self) -> None:
        super().__init__(carries_on=True, name="pymotor-proxy")

    def start(self, fleet: EngineFleet, directory: Path, core: int) -> tuple[Pinned, int]:
        (port,) = free_ports(1)
        argv = [PYTHON, "-m", "pymotor", "proxy", "--host", "127.0.0.1", "--port", str(port)]
        for name, ports in (("prefiller", fleet.prefill), ("decoder", fleet.decode), ("pd", fleet.union)):
            if ports:
                argv += [f"--{name}-hosts", "127.0.0.1", f"--{name}-ports", *map(str, ports)]
        process = Pinned(self.name, argv, core, directory / f"{self.name}.log")
        return _ready(process, port, f"http://127.0.0.1:{port}/healthcheck", 120)


class VllmRouter(Gateway):
    """vllm-project's router (Rust), from its Python package."""

    modes = frozenset({"union", "pd", "epd"})

    def __init__(self, policy: str = "round_robin", name: str = "vllm-router") -> None:
        self.name = name
        self._policy = policy
        default = ", its default" if policy == "cache_aware" else ""
        self.what_is_on = (
            f"one process, policy `{policy}`{default}",
            "retries, circuit breakers, health checks every 60 s, metrics for Prometheus: its defaults",
            "PD: `--vllm-pd-disaggregation` with its NIXL protocol",
        )

    def version(self) -> str | None:
        python = PEERS / "bin" / "python"
        if not python.exists():
            return None
        code = "from importlib.metadata import version; print(version('vllm-router'))"
        found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
        return found.stdout.strip() or None

    def start(self, fleet: EngineFleet, directory: Path, core: int) -> tuple[Pinned, int]:
        port, metrics = free_ports(2)
        argv = [str(PEERS / "bin" / "vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
        argv += ["--prometheus-port", str(metrics), "--policy", self._policy]
        if fleet.union:
            argv += ["--worker-urls", *map(_url, fleet.union)]
        else:
            argv.append("--vllm-pd-disaggregation")
            for each in fleet.prefill:
                argv += ["--prefill", _url(each)]
            for each in fleet.decode:
                argv += ["--decode", _url(each)]
        process = Pinned(self.name, argv, core, directory / f"{self.name}.log")
        return _ready(process, port, f"http://127.0.0.1:{port}/readiness", 180)


class HAProxy(Gateway):
    """A proxy that only balances: the least that a gateway can cost."""

    name = "haproxy"
    modes = frozenset({"union"})
    what_is_on = (
        "one thread, `balance leastconn`, connections to servers reused, events of streams not joined "
        "(`option http-no-delay`)",
        "no health checks, no log, no look into the body",
    )

    def version(self) -> str | None:
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if program is None:
            return None
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout.split()
        return said[2] if len(said) > 2 else "unknown"

    def start(self, fleet: EngineFleet, directory: Path, core: int) -> tuple[Pinned, int]:
        (port,) = free_ports(1)
        servers = "\n".join(f"  server engine{number} 127.0.0.1:{each}" for number, each in enumerate(fleet.union))
        config = directory / "haproxy.cfg"
        config.write_text(
            "global\n  nbthread 1\n  maxconn 8000\n"
            "defaults\n  mode http\n  option http-keep-alive\n  option http-no-delay\n  http-reuse always\n"
            "  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n"
            f"frontend clients\n  bind 127.0.0.1:{port} backlog 4096\n  default_backend engines\n"
            f"backend engines\n  balance leastconn\n{servers}\n"
        )
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        process = Pinned(self.name, [program, "-db", "-f", str(config)], core, directory / "haproxy.log")
        return _ready(process, port, f"http://127.0.0.1:{port}/health", 30)


GATEWAYS: dict[str, Gateway] = {
    gateway.name: gateway
    for gateway in (
        PyMotor(),
        PyMotor(workers=2, name="pymotor-2-workers"),
        PyMotor(carries_on=True, name="pymotor-carry-on"),
        PyMotor(keys=True, name="pymotor-keys"),
        PyMotor(keys=True, limits=True, name="pymotor-keys-limits"),
        PyMotor(traced=0.01, name="pymotor-traces"),
        PyMotor(policy="kv_cache_affinity", name="pymotor-affinity"),
        PyMotorProxy(),
        VllmRouter(),
        VllmRouter(policy="cache_aware", name="vllm-router-cache-aware"),
        HAProxy(),
    )
}
DEFAULT_GATEWAYS = ("pymotor", "vllm-router", "haproxy")


def fleet_snapshot(fleet: EngineFleet) -> bytes:
    """The fake engines as PyMotor's fleet snapshot."""
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

    def instances(role: Role, ports: Sequence[int]) -> list[Instance]:
        kv = None
        if role in (Role.PREFILL, Role.DECODE):
            kv = KVTransfer(
                connector="NixlConnector",
                dialect=KVDialect.PULL,
                produces=role is Role.PREFILL,
                consumes=role is Role.DECODE,
                handoff_seconds=30.0,
            )
        ec = None
        if fleet.encode and role in (Role.ENCODE, Role.PREFILL):
            ec = ECTransfer(
                connector=EMBEDDINGS["ec_connector"],
                dialect=ECDialect.STORE,
                produces=role is Role.ENCODE,
                consumes=role is Role.PREFILL,
                store="/embeddings",
            )
        return [
            Instance(
                name=f"{role.value}-{number}",
                role=role,
                models=(MODEL,),
                engine="vllm",
                state=InstanceState.ACTIVE,
                endpoints=(Endpoint(id=f"{role.value}-{number}/0", url=_url(port), state=EndpointState.READY),),
                kv=kv,
                ec=ec,
                pairing=MODEL,
                max_model_len=1 << 20,
            )
            for number, port in enumerate(ports)
        ]

    by_role = (
        (Role.ENCODE, fleet.encode),
        (Role.PREFILL, fleet.prefill),
        (Role.DECODE, fleet.decode),
        (Role.UNION, fleet.union),
    )
    return encode_snapshot(
        FleetSnapshot(version=1, instances=tuple(each for role, ports in by_role for each in instances(role, ports)))
    )


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _ready(process: Pinned, port: int, url: str, deadline: float) -> tuple[Pinned, int]:
    try:
        process.wait_for(url, deadline)
    except BaseException:
        process.stop()
        raise
    return process, port
