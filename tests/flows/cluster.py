"""A whole cluster as processes: Controllers, Coordinators, NodeManagers with simulated engines, and cuts between them.

What a cluster would start again after it was killed (NodeManagers, Controllers, Coordinators: the work of the kubelet)
`Cluster.revive` starts again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import plain_http
import psutil
from cutting_proxy import CuttingProxy
from processes import PymotorProcess, wait_until

from free_ports import free_port
from pymotor.fleet import Role

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "a-token-for-this-test-only"
MARK = "PYMOTOR_CLUSTER_UNDER_TEST"
LETTERS = {Role.ENCODE: "e", Role.PREFILL: "p", Role.DECODE: "d"}


class Part:
    """One process of the cluster: started, and started again, with the same words."""

    def __init__(self, name: str, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._words = list(words)
        self._log = log
        self._environment = dict(environment)
        self.process: PymotorProcess | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.alive

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it; does not wait."""
        self.process = PymotorProcess(self._words, self._log, self._environment)

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


class Cluster:
    """Use as a context manager; whole when entered."""

    def __init__(
        self,
        directory: Path,
        roles: Mapping[Role, int],
        *,
        controllers: int = 1,
        coordinators: int = 1,
        workers: int = 1,
        coordinator_config: Mapping[str, object] | None = None,
        controller_config: Mapping[str, object] | None = None,
        heartbeat: float = 1.0,
    ) -> None:
        """`heartbeat`: seconds between two reports of a NodeManager."""
        self._directory = directory
        self.roles = dict(roles)
        self.mark = f"{MARK}={directory}"
        self._environment = {"PYMOTOR_CLUSTER_TOKEN": TOKEN, MARK: str(directory)}
        self._config = directory / "user_config.json"
        self._write_config(coordinator_config, controller_config, controllers > 1, heartbeat)
        self._ports = [free_port() for _ in range(controllers)]
        self.controller_urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self.controllers = [self._controller(number) for number in range(controllers)]
        self.cuts: dict[str, CuttingProxy] = {}
        """What lies between a part and the Controllers, by the part's name."""
        self.coordinators: list[Part] = []
        self.urls: list[str] = []
        self._management: list[str] = []
        for number in range(coordinators):
            self._add_coordinator(number, workers)
        self.nodes: dict[str, Part] = {}
        for role, count in roles.items():
            for number in range(count):
                self._add_node(role, number)

    def __enter__(self) -> Cluster:
        try:
            for part in self.parts:
                part.start()
            wait_until(self.whole, "the cluster is whole", 120)
        except BaseException as error:
            error.args = (*error.args, *(f"{part.name}: {part.tail()}" for part in self.parts))
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def parts(self) -> list[Part]:
        """All processes that are started here."""
        return [*self.controllers, *self.coordinators, *self.nodes.values()]

    def close(self) -> None:
        """End everything; nothing is left."""
        for part in self.parts:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                part.signal(18)  # SIGCONT: what is stopped cannot end
            if part.process is not None:
                part.process.ask_to_end()
        for part in self.parts:
            if part.process is not None:
                part.process.end()
        for proxy in self.cuts.values():
            proxy.close()

    def leftovers(self) -> list[str]:
        """Command lines of processes of this cluster that run now."""
        return [" ".join(process.cmdline()) for process in self._processes()]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self._directory) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    # -- what is going on

    def fleet(self, coordinator: int = 0) -> dict[str, Any]:
        """A Coordinator's `GET /instances`; raises `httpx.HTTPError` when it does not answer."""
        reply = plain_http.get(f"{self._management[coordinator]}/instances", timeout=10)
        found: dict[str, Any] = reply.raise_for_status().json()
        return found

    def states(self, coordinator: int = 0) -> dict[str, str]:
        """Instances and their states as a Coordinator knows them; empty when it does not answer."""
        try:
            return {one["name"]: one["state"] for one in self.fleet(coordinator)["instances"]}
        except httpx.HTTPError:
            return {}

    def whole(self) -> bool:
        """Whether every part runs and every Coordinator serves with all its workers and all instances."""
        return all(part.alive for part in self.parts) and all(map(self._serves_whole, range(len(self.coordinators))))

    def _serves_whole(self, coordinator: int) -> bool:
        try:
            report = self.fleet(coordinator)
        except httpx.HTTPError:
            return False
        states = [one["state"] for one in report["instances"]]
        all_listen = report["workers"] == report["workers_listening"]
        return bool(report["ready"] and all_listen and states == ["active"] * sum(self.roles.values()))

    def controller_fleet(self, number: int | None = None) -> dict[str, Any]:
        """A Controller's `GET /fleet`, of the leader by default; raises when none answers."""
        urls = self.controller_urls if number is None else [self.controller_urls[number]]
        for url in urls:
            with contextlib.suppress(httpx.HTTPError):
                reply = plain_http.get(f"{url}/fleet", timeout=5, headers={"Authorization": f"Bearer {TOKEN}"})
                if reply.status_code == 200:
                    found: dict[str, Any] = reply.json()
                    return found
        raise LookupError("no Controller answers")

    def leader(self) -> int:
        """The number of the Controller that leads; raises `LookupError` when none says so."""
        for number in range(len(self.controllers)):
            with contextlib.suppress(LookupError):
                self.controller_fleet(number)
                return number
        raise LookupError("no Controller leads")

    def engine_pid(self, instance: str) -> int:
        """The process of an instance's first engine server. Raises `LookupError` when none runs."""
        for node in self.controller_fleet()["nodes"]:
            if node["instance"] == instance and node["servers"]:
                pid = node["servers"][0]["process_id"]
                if isinstance(pid, int):
                    return pid
        raise LookupError(instance)

    def node_of(self, instance: str) -> Part:
        """The NodeManager that runs an instance."""
        for node in self.controller_fleet()["nodes"]:
            if node["instance"] == instance:
                return self.nodes[node["name"]]
        raise LookupError(instance)

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of an operator, against the first Controller."""
        return subprocess.run(
            [sys.executable, "-m", "pymotor", *words],
            env={**os.environ, "PYMOTOR_CLUSTER_TOKEN": TOKEN, "PYMOTOR_CONTROLLER": self.controller_urls[0]},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def worker_pids(self, coordinator: int = 0) -> list[int]:
        """The worker processes of a Coordinator."""
        children = psutil.Process(self.coordinators[coordinator].pid).children()
        return [child.pid for child in children if any("worker" in word for word in child.cmdline())]

    def revive(self) -> None:
        """Start what has ended, as a kubelet does."""
        for part in self.parts:
            if not part.alive:
                part.start()

    def wait_whole(self, seconds: float = 120.0) -> float:
        """Wait until the cluster is whole; returns the seconds that took."""
        began = time.monotonic()

        def whole() -> bool:
            self.revive()
            return self.whole()

        wait_until(whole, f"the cluster is whole again: {self.states()}", seconds)
        return time.monotonic() - began

    # -- building it

    def _write_config(
        self,
        coordinator: Mapping[str, object] | None,
        controller: Mapping[str, object] | None,
        standby: bool,
        heartbeat: float,
    ) -> None:
        config = json.loads((EXAMPLES / "infer_engines/sim/epd/user_config.json").read_text())
        for role, letter in LETTERS.items():
            config["motor_deploy_config"][f"{letter}_instances_num"] = max(1, self.roles.get(role, 0))
            section = config[f"motor_engine_{role.value}_config"]
            section["engine_config"]["sim-speed"] = 0.0
            section["motor_nodemanger_config"] = {"basic_config": {"heartbeat_interval_seconds": heartbeat}}
        config["motor_coordinator_config"] = dict(coordinator or {})
        config["motor_controller_config"] = dict(controller or {})
        if standby:
            lease = {"enable_master_standby": True, "master_lock_ttl": 3, "master_standby_check_interval": 0.5}
            config["motor_controller_config"]["standby_config"] = lease | {"master_lock_retry_interval": 0.5}
        self._config.write_text(json.dumps(config))
        (self._directory / "store").mkdir(exist_ok=True)
        (self._directory / "state").mkdir(exist_ok=True)
        (self._directory / "logs").mkdir(exist_ok=True)

    def _controller(self, number: int) -> Part:
        name = f"controller-{number}"
        words = ["controller", "--user_config_path", str(self._config), "--port", str(self._ports[number])]
        words += ["--host", "127.0.0.1", "--state-dir", str(self._directory / "state"), "--name", name]
        return Part(name, words, self._directory / f"{name}.log", self._environment)

    def _before_controllers(self, name: str) -> str:
        """The Controllers' URLs for this part, each behind a proxy that can be cut."""
        proxies = [CuttingProxy(port) for port in self._ports]
        for number, proxy in enumerate(proxies):
            self.cuts[f"{name}>controller-{number}"] = proxy
        return ",".join(proxy.url for proxy in proxies)

    def cut(self, name: str) -> list[CuttingProxy]:
        """The ways from this part to all Controllers."""
        return [proxy for key, proxy in self.cuts.items() if key.startswith(f"{name}>")]

    def _add_coordinator(self, number: int, workers: int) -> None:
        name = f"coordinator-{number}"
        port, management, observability = (free_port() for _ in range(3))
        self.urls.append(f"http://127.0.0.1:{port}")
        self._management.append(f"http://127.0.0.1:{management}")
        words = ["coordinator", "--user_config_path", str(self._config), "--controller", self._before_controllers(name)]
        words += ["--port", str(port), "--management-port", str(management), "--observability-port", str(observability)]
        words += ["--workers", str(workers), "--server-timing", "on"]
        self.coordinators.append(Part(name, words, self._directory / f"{name}.log", self._environment))

    def _add_node(self, role: Role, number: int) -> None:
        name = f"node-{role.value}-{number}"
        words = ["node-manager", "--user_config_path", str(self._config), "--role", role.value]
        words += ["--job", f"job-{role.value}", "--node", name, "--number", str(number), "--address", "127.0.0.1"]
        words += ["--controller", self._before_controllers(name), "--port", "none"]
        words += ["--log-dir", str(self._directory / "logs"), "--store", str(self._directory / "store")]
        self.nodes[name] = Part(name, words, self._directory / f"{name}.log", self._environment)
