"""One deployment in a cluster, by the commands that users type."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "infer_engines" / "sim" / "epd"
SECONDS = 600.0
SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}}
"""Enough for simulated engines, so that a cluster on somebody's machine has room for all pods."""
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg"
    "=="
)


class Deployment:
    """A namespace of its own, a copy of the scripts, and a configuration of simulated engines."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.namespace = f"pymotor-test-{secrets.token_hex(3)}"
        self.home = directory / "examples" / "deployer"
        shutil.copytree(ROOT / "examples" / "deployer", self.home, ignore=shutil.ignore_patterns("log", "output_yamls"))
        self.config_dir = directory / "config"
        self.config_dir.mkdir()
        self.port = int(os.environ.get("PYMOTOR_K8S_NODE_PORT", "31815"))
        self.config: dict[str, Any] = json.loads((EXAMPLE / "user_config.json").read_text())
        self.config["motor_deploy_config"].update(
            job_id=self.namespace,
            deploy_mode=mode,
            image_name=os.environ["PYMOTOR_K8S_IMAGE"],
            e_instances_num=1,
            p_instances_num=1,
            d_instances_num=1,
            kubernetes_config={
                "coordinator_node_port": self.port,
                "observability_node_port": self.port + 1,
                "alarm_node_port": self.port + 2,
                "resources": dict.fromkeys(("controller", "coordinator", "encode", "prefill", "decode"), SMALL),
            },
        )
        # Where MindCluster is not, nobody reports faults of devices; the rights to read of them are its own all the
        # same. One Controller leads, the other stands by.
        self.config["motor_controller_config"] = {
            "fault_tolerance_config": {"configmap_namespace": self.namespace},
            "observability_config": {"observability_enable": True},
            "standby_config": {"enable_master_standby": True},
        }
        shared = os.environ.get("PYMOTOR_K8S_HOSTPATH")
        if not shared:
            selector = {"kubernetes.io/hostname": a_node(self)}
            self.config["motor_deploy_config"]["kubernetes_config"]["node_selector"] = selector
        store = f"{shared or '/tmp/pymotor-k8s'}/{self.namespace}"
        for role in ("encode", "prefill"):
            transfer = self.config[f"motor_engine_{role}_config"]["engine_config"]["ec-transfer-config"]
            transfer["ec_connector_extra_config"] = {"shared_storage_path": store}
        self.write()

    def write(self) -> None:
        """The files as they are now."""
        (self.config_dir / "user_config.json").write_text(json.dumps(self.config))
        (self.config_dir / "env.json").write_text("{}")

    def run(self, *argv: str | Path, status: int = 0) -> str:
        """Run a command to its end; what it printed, of one that is to fail what it said why."""
        environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src")}
        ended = subprocess.run(
            argv, env=environment, capture_output=True, text=True, cwd=self.home, timeout=2 * SECONDS
        )
        assert ended.returncode == status, f"{argv}\n{ended.stdout}\n{ended.stderr}"
        return ended.stderr if status else ended.stdout

    def deploy(self, *flags: str, status: int = 0) -> str:
        """`pymotor deploy` with the configuration as it is now."""
        self.write()
        words = ("deploy", "--config_dir", self.config_dir, "--home", self.home, "--timeout", f"{SECONDS:g}", *flags)
        return self.run(sys.executable, "-m", "pymotor", *words, status=status)

    def delete(self) -> str:
        """delete.sh."""
        return self.run("bash", self.home / "delete.sh", self.namespace)

    def kubectl(self, *words: str) -> str:
        """Another look at the cluster than the deployer's own."""
        return self.run("kubectl", "-n", self.namespace, *words)

    def pods(self, role: str = "") -> list[str]:
        """Names of the pods, of a role or all, that do not end."""
        selector = ("-l", f"app.kubernetes.io/component={role}") if role else ()
        items = json.loads(self.kubectl("get", "pods", "-o", "json", *selector))["items"]
        return [one["metadata"]["name"] for one in items if "deletionTimestamp" not in one["metadata"]]

    def is_ready(self, pod: str) -> bool:
        """Whether Kubernetes says so."""
        status = json.loads(self.kubectl("get", "pod", pod, "-o", "json"))["status"]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))

    @contextmanager
    def door(self) -> Iterator[str]:
        """The URL of the inference port: a node's, or where no node is reached from here a forwarded one."""
        node = os.environ.get("PYMOTOR_K8S_NODE") or next(filter(self._is_reached, self._addresses()), "")
        if node:
            yield f"http://{node}:{self.port}"
            return
        services = json.loads(self.kubectl("get", "services", "-o", "json"))["items"]
        name, port = next(
            (one["metadata"]["name"], port["port"])
            for one in services
            for port in one["spec"]["ports"]
            if port.get("nodePort") == self.port
        )
        argv = ["kubectl", "-n", self.namespace, "port-forward", f"service/{name}", f":{port}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
                assert found is not None, "no port is forwarded"
                yield f"http://{found[0]}"
            finally:
                process.terminate()

    def _addresses(self) -> list[str]:
        nodes = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        return [one["address"] for node in nodes for one in node["status"]["addresses"] if one["type"] == "InternalIP"]

    def _is_reached(self, address: str) -> bool:
        try:
            socket.create_connection((address, self.port), timeout=2).close()
        except OSError:
            return False
        return True

    def ask(self, text: str = "What is in the image?") -> httpx.Response:
        """A request with an image."""
        content = [{"type": "image_url", "image_url": {"url": IMAGE}}, {"type": "text", "text": text}]
        body = {"model": "qwenvl", "messages": [{"role": "user", "content": content}], "max_tokens": 8}
        with self.door() as url:
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


def a_node(deployment: Deployment) -> str:
    """The name of a node that takes any pod: pods on one node share its directories."""
    nodes = json.loads(deployment.kubectl("get", "nodes", "-o", "json"))["items"]
    free = [node for node in nodes if not node["spec"].get("taints") and not node["spec"].get("unschedulable")]
    assert free, "no node of the cluster takes pods: kubectl describe nodes says why"
    return str(free[0]["metadata"]["labels"]["kubernetes.io/hostname"])


def until(condition: Callable[[], object], words: str) -> None:
    """Wait for it."""
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, words
        time.sleep(1)
