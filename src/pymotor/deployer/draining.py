"""Instances that are to go get no new requests, and their running ones are finished first: the Controller is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.kubectl_errors import KubectlError
from pymotor.deployer.naming import Manifest
from pymotor.deployer.pods import name_of, running_controller
from pymotor.deployer.request import DeployError, DeployRequest
from pymotor.deployer.tls import asked_in_pods

_MARGIN_SECONDS = 30.0
_SHORT_SECONDS = 60.0


class ControllerVerbs:
    """`pymotor instances …` in the Controller's pod, where its token is: the deployer never has it."""

    def __init__(self, kubectl: Kubectl, request: DeployRequest, pod: Manifest, container: str) -> None:
        self._kubectl = kubectl
        self._request = request
        self._pod = name_of(pod)
        self._container = container
        address = str((pod.get("status") or {}).get("podIP") or "127.0.0.1")
        self._url, self._options = asked_in_pods(request.user, address, request.controller_port)

    @classmethod
    def found(cls, kubectl: Kubectl, request: DeployRequest) -> ControllerVerbs | None:
        """Those of a Controller that is ready; None where there is none. Raises `KubectlError`."""
        controller = running_controller(kubectl)
        return cls(kubectl, request, *controller) if controller is not None else None

    def instances_of(self, pods: Collection[str]) -> list[str]:
        """The names of the instances whose nodes are these pods. Raises `KubectlError`."""
        listed = json.loads(self._run("list", "--json", timeout=_SHORT_SECONDS))["instances"]
        return [str(one["name"]) for one in listed if set(one.get("nodes") or []) & set(pods)]

    def drain(self, instance: str, reason: str) -> None:
        """Drain an instance, until it is drained or the limit has passed. Raises `KubectlError`."""
        limit = self._request.drain_seconds
        self._run(
            *("drain", instance, "--wait", "--limit", f"{limit:g}", "--reason", reason),
            *("--timeout", f"{limit + _MARGIN_SECONDS:g}"),
            timeout=limit + 2 * _MARGIN_SECONDS,
        )

    def undrain(self, instance: str) -> None:
        """Let it have requests again. Raises `KubectlError`."""
        self._run("undrain", instance, timeout=_SHORT_SECONDS)

    def _run(self, *words: str, timeout: float) -> str:
        argv = ("pymotor", "instances", *words, "--controller", self._url, *self._options)
        return self._kubectl.execute(self._pod, self._container, *argv, timeout=timeout)


def drain_pods(
    kubectl: Kubectl, request: DeployRequest, pods: Sequence[str], reason: str, tell: Callable[[str], None]
) -> list[str]:
    """Drain the instances of these pods; their names. All or none: where one fails the others get requests again.

    Raises `DeployError` where the Controller cannot be asked.
    """
    if not pods:
        return []
    try:
        verbs = ControllerVerbs.found(kubectl, request)
        if verbs is None:
            # Nothing runs that a Coordinator could send requests to by it, and preStop still drains.
            tell("no Controller is ready: instances end without being drained first, their preStop still does it")
            return []
        instances = verbs.instances_of(pods)
    except (KubectlError, ValueError, KeyError, TypeError) as error:
        raise DeployError(f"the Controller does not say which instances would end: {error}") from error
    drained: list[str] = []
    for instance in instances:
        tell(f"draining {instance}, at most {request.drain_seconds:g} s")
        drained.append(instance)
        try:
            verbs.drain(instance, reason)
        except KubectlError as error:
            for one in drained:
                with suppress(KubectlError):
                    verbs.undrain(one)
            raise DeployError(
                f"{instance} cannot be drained, so nothing was removed: {error}\n    to do: run it again"
            ) from error
    return drained
