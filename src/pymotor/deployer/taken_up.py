"""Whether the pods run with the configuration that the ConfigMap has: each part is asked in its own pod."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pymotor.config.source import revision_of
from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.kubectl_errors import KubectlError
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, Manifest
from pymotor.deployer.objects.probes import ports_of
from pymotor.deployer.pods import container_with_role, name_of
from pymotor.deployer.request import DeployError, DeployRequest
from pymotor.deployer.tls import asked_in_pods

_ASK_SECONDS = 60.0
_PARTS = (CONTROLLER, COORDINATOR, *ENGINE_ROLES)


class _Asked(NamedTuple):
    pod: str
    container: str
    words: tuple[str, ...]
    """Of `pymotor config`."""


def wait_taken_up(kubectl: Kubectl, request: DeployRequest, content: str, tell: Callable[[str], None]) -> None:
    """Until each running part has this `user_config.json` in force; each that has is told.

    Raises `DeployError` when one refuses it, or after `timeout`; `KubectlError`.
    """
    revision = revision_of(content.encode())
    ends = time.monotonic() + request.timeout
    done: set[str] = set()
    while True:
        waiting = {asked.pod: asked for asked in _parts(kubectl, request) if asked.pod not in done}
        words = {pod: _look(kubectl, asked, revision, tell) for pod, asked in waiting.items()}
        done |= {pod for pod, why in words.items() if not why}
        late = {pod: why for pod, why in words.items() if why}
        if not late:
            tell(f"in force in {len(done)} pods")
            return
        if time.monotonic() > ends:
            listed = "\n".join(f"    {pod}: {why}" for pod, why in late.items())
            raise DeployError(
                f"applied, but not in force everywhere after {request.timeout:g} s:\n{listed}\n"
                f"    to do: kubectl logs -n {request.namespace} of these pods; then run it again"
            )
        time.sleep(request.poll_seconds)


def _parts(kubectl: Kubectl, request: DeployRequest) -> list[_Asked]:
    """The running parts that follow the configuration. One pod with all parts has `pymotor up` in it, which hands a
    copy on and says in its log what became of it."""
    found = []
    for pod in kubectl.listed(["pods"]):
        if pod["metadata"].get("deletionTimestamp"):
            continue
        for part in _PARTS:
            container = container_with_role(pod, part)
            if container is not None:
                found.append(_Asked(name_of(pod), str(container["name"]), _words(request, pod, part)))
    return found


def _words(request: DeployRequest, pod: Manifest, part: str) -> tuple[str, ...]:
    address = str((pod.get("status") or {}).get("podIP") or "127.0.0.1")
    url, options = asked_in_pods(request.user, address, next(iter(ports_of(request.user, part).values())))
    return (url, *options)


def _look(kubectl: Kubectl, asked: _Asked, revision: str, tell: Callable[[str], None]) -> str:
    """Why the part does not run with it yet; empty: it does. Raises `DeployError` where it never will."""
    try:
        text = kubectl.execute(asked.pod, asked.container, "pymotor", "config", *asked.words, timeout=_ASK_SECONDS)
        state: dict[str, Any] = json.loads(text)
        error = state.get("error") or {}
        if error.get("revision") == revision:
            raise DeployError(
                f"applied, but {asked.pod} refuses it and goes on as before: {error['message']}\n"
                "    to do: mend the configuration and run it again"
            )
        if state["revision"] != revision:
            return "it still runs with the former configuration"
        waits = state.get("needs_restart") or []
    except KubectlError as error:
        return str(error).splitlines()[0]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its answer is not understood: {error!r}"
    more = f"; a restart is needed for {', '.join(waits)}" if waits else ""
    tell(f"  {asked.pod} runs with it{more}")
    return ""
