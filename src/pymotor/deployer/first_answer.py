"""A first request through the cluster's own door: what `--wait` ends with."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.kubectl_errors import KubectlError
from pymotor.deployer.naming import Manifest
from pymotor.deployer.pods import name_of
from pymotor.deployer.request import DeployError, DeployRequest

KEY_VARIABLE = "PYMOTOR_API_KEY"
"""The variable with the API key to ask with."""
_CONNECT_SECONDS = 3.0
_ANSWER_SECONDS = 120.0
_FORWARDING = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")


def wait_answered(kubectl: Kubectl, request: DeployRequest, tell: Callable[[str], None]) -> None:
    """Until a request for one token is answered, through the NodePort or, where that is not reached from here, a
    forwarded port. Raises `DeployError` after `timeout`, `KubectlError`."""
    if request.user.motor_deploy_config.tls_config.infer_tls_config.enable_tls:
        # Clients have to show a certificate there, and only the user has one.
        tell("everything is ready; infer_tls_config is on, so ask for a first answer yourself, with your certificate")
        return
    key = os.environ.get(KEY_VARIABLE, "")
    if request.user.motor_coordinator_config.api_key_config.enable_api_key and not key:
        tell(f"everything is ready; enable_api_key is on, so ask for a first answer yourself, or set {KEY_VARIABLE}")
        return
    ends = time.monotonic() + request.timeout
    service, port, node_port = _inference_service(kubectl, request)
    said = ""
    while True:
        for url in _node_urls(kubectl, node_port):
            answer = _ask(url, key)
            if answer.model:
                tell(f"{answer.model} answers at {url}")
                return
            if answer.reached:
                break
        else:
            with _forwarded(kubectl, service, port) as url:
                answer = _ask(url, key) if url else _Answer("", False, f"port {port} of {service} cannot be forwarded")
                if answer.model:
                    tell(
                        f"{answer.model} answers through a forwarded port; the nodes' port {node_port} is not reached "
                        "from here"
                    )
                    return
        if answer.words != said:
            tell(f"  no answer yet: {answer.words}")
        said = answer.words
        if time.monotonic() > ends:
            raise DeployError(
                f"everything is ready, but no request is answered: {said}\n"
                f"    to do: kubectl logs -n {request.namespace} of the coordinator's pod says why"
            )
        time.sleep(request.poll_seconds)


class _Answer:
    def __init__(self, model: str, reached: bool, words: str) -> None:
        self.model = model
        self.reached = reached
        self.words = words


def _ask(url: str, key: str) -> _Answer:
    """Ask for one token of the first model that is served there, with an API key where there is one."""
    headers = {"Authorization": f"Bearer {key}"} if key else None
    limits = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=limits, trust_env=False) as client:
            models = client.get("/v1/models")
            if not models.is_success:
                return _Answer("", True, f"HTTP {models.status_code} {models.text[:200]}")
            model = str(models.json()["data"][0]["id"])
            body: dict[str, Any] = {
                "model": model,
                "messages": [{"role": "user", "content": "who are you?"}],
                "max_tokens": 1,
            }
            answer = client.post("/v1/chat/completions", json=body)
            if answer.is_success:
                return _Answer(model, True, "")
            return _Answer("", True, f"HTTP {answer.status_code} {answer.text[:200]}")
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return _Answer("", False, f"{url}: {error}")
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        return _Answer("", True, f"{url}: {error!r}")


def _inference_service(kubectl: Kubectl, request: DeployRequest) -> tuple[str, int, int]:
    """The Service that leads to the Coordinator, its own port and that of the nodes."""
    for service in kubectl.listed(["services"]):
        for port in service.get("spec", {}).get("ports", []):
            if port.get("nodePort") and int(port["port"]) == request.inference_port:
                return name_of(service), int(port["port"]), int(port["nodePort"])
    raise DeployError(
        f"no Service of {request.namespace} has port {request.inference_port} and a port of the nodes for it\n"
        f"    to do: kubectl get services -n {request.namespace}; run deploy.py again"
    )


def _node_urls(kubectl: Kubectl, node_port: int) -> list[str]:
    try:
        nodes = kubectl.listed(["nodes"], namespaced=False)
    except KubectlError:
        # To see nodes is a right that users of a namespace often lack; the forwarded port needs none of it.
        return []
    addresses = [address for node in nodes for address in _addresses(node)]
    return [f"http://{address}:{node_port}" for address in addresses[:3]]


def _addresses(node: Manifest) -> list[str]:
    found = [
        str(one["address"])
        for one in (node.get("status") or {}).get("addresses") or []
        if one.get("type") == "InternalIP"
    ]
    return [f"[{address}]" if ":" in address else address for address in found]


@contextmanager
def _forwarded(kubectl: Kubectl, service: str, port: int) -> Iterator[str]:
    """The URL of a port of this machine that leads to the Service; empty where it cannot be had."""
    words = ("port-forward", "-n", kubectl.namespace, f"service/{service}", f":{port}", "--address", "127.0.0.1")
    with kubectl.started(f"forward a port to {service}", *words) as process:
        url = ""
        if process.stdout is not None:
            for line in process.stdout:
                if found := _FORWARDING.search(line):
                    url = f"http://{found[1]}"
                    break
        yield url
