"""A Coordinator before the encode, prefill and decode engines of a test, with a recording relay before each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from recording_proxy import RecordingProxy

from engines_under_test import EnginesUnderTest, engine_config, port_claims
from pymotor.engines.port_claims import PortClaims
from pymotor.fleet import EndpointState, FleetSnapshot, Instance, InstanceState, Role, encode_snapshot

READY_SECONDS = 60.0
STAGES = (Role.ENCODE, Role.PREFILL, Role.DECODE)


@dataclass(frozen=True)
class GatewayBeforeEngines:
    """A ready Coordinator; the union engine is not in its fleet."""

    url: str
    management_url: str
    proxies: dict[Role, RecordingProxy]

    def forget(self) -> None:
        """Forget what the engines were sent so far."""
        for proxy in self.proxies.values():
            proxy.forget()


@contextmanager
def running_gateway(
    engines: EnginesUnderTest, directory: Path, coordinator_config: dict[str, object]
) -> Iterator[GatewayBeforeEngines]:
    """The Coordinator with this `motor_coordinator_config`, for the length of a `with` block."""
    with ExitStack() as stack:
        proxies = {role: stack.enter_context(RecordingProxy(engines.url(role))) for role in STAGES}
        instances = [active(engines.plans[role].instance, proxies[role].url) for role in STAGES]
        urls = stack.enter_context(gateway_over(engines, instances, directory, coordinator_config))
        yield GatewayBeforeEngines(urls[0], urls[1], proxies)


@contextmanager
def gateway_over(
    engines: EnginesUnderTest, instances: Sequence[Instance], directory: Path, coordinator_config: dict[str, object]
) -> Iterator[tuple[str, str, str]]:
    """A ready Coordinator before these instances: its URLs for clients, management and metrics."""
    with ExitStack() as stack:
        fleet = directory / "fleet.json"
        fleet.write_bytes(encode_snapshot(FleetSnapshot(version=1, instances=tuple(instances))))
        config = directory / "user_config.json"
        content = engine_config(engines.kind, engines.directory / "tiny-qwen3-vl")
        config.write_text(json.dumps({**content, "motor_coordinator_config": coordinator_config}))
        claims = stack.enter_context(port_claims())
        ports = _claim_ports(claims, 3)
        log = directory / "coordinator.log"
        stack.enter_context(_coordinator(config, fleet, ports, log))
        clients, management, observability = (f"http://127.0.0.1:{port}" for port in ports)
        _wait_until_ready(clients, log)
        yield clients, management, observability


def active(planned: Instance, url: str) -> Instance:
    """The planned instance as it stands in a fleet when its engine runs, reached at `url`."""
    (endpoint,) = planned.endpoints
    return msgspec.structs.replace(
        planned,
        state=InstanceState.ACTIVE,
        endpoints=(msgspec.structs.replace(endpoint, url=url, state=EndpointState.READY),),
    )


def _claim_ports(claims: PortClaims, number: int) -> list[int]:
    free = (port for port in range(21000, 32000) if claims.claim_unbound("127.0.0.1", port))
    return [next(free) for _ in range(number)]


@contextmanager
def _coordinator(config: Path, fleet: Path, ports: list[int], log: Path) -> Iterator[None]:
    command = [
        *(sys.executable, "-m", "pymotor", "coordinator"),
        *("--user_config_path", str(config), "--fleet", str(fleet), "--workers", "1", "--server-timing", "on"),
        *("--port", str(ports[0]), "--management-port", str(ports[1]), "--observability-port", str(ports[2])),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, log: Path) -> None:
    ends = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends:
        try:
            if httpx.get(f"{url}/readiness", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the Coordinator is not ready after {READY_SECONDS:g} s:\n{log.read_text()[-3000:]}")
