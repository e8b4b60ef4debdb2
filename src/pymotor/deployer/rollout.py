"""Whether what was applied runs: only what a controller of Kubernetes says of the newest generation is believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pymotor.deployer.kubectl import Kubectl, named
from pymotor.deployer.kubectl_errors import NoClusterError, TimedOutError
from pymotor.deployer.naming import Manifest
from pymotor.deployer.owned import SET_KIND, TEMPLATE_ANNOTATION, set_roles, stamped
from pymotor.deployer.pods import name_of, pods_of_set, pods_of_workload, trouble_of
from pymotor.deployer.request import DeployError, DeployRequest

WORKLOADS = ("Deployment", "StatefulSet", SET_KIND)


@dataclass(frozen=True)
class Progress:
    """How far one workload is."""

    name: str
    ready: bool
    words: str


def progress_of(live: Manifest | None, name: str) -> Progress:
    """How far a Deployment, StatefulSet or InferServiceSet is, by its status."""
    if live is None:
        return Progress(name, False, "not there")
    status = live.get("status") or {}
    if int(status.get("observedGeneration") or 0) < int(live["metadata"].get("generation") or 1):
        # A status of an older generation may say ready, and stays so where the operator refuses the new one.
        return Progress(name, False, "not yet seen by its controller")
    wanted = int(live.get("spec", {}).get("replicas", 1))
    ready = int(status.get("readyReplicas") or 0)
    if live["kind"] == SET_KIND:
        conditions = {one.get("type"): one for one in status.get("conditions") or []}
        condition = conditions.get("Ready") or {}
        good = condition.get("status") == "True" and ready >= wanted
        said = "" if good or not condition.get("message") else f" ({condition['message']})"
        return Progress(name, good, f"{ready}/{wanted} ready{said}")
    updated = int(status.get("updatedReplicas") or 0)
    current = int(status.get("replicas") or 0)
    good = ready == updated == current == wanted
    if live["kind"] == "StatefulSet":
        good = good and status.get("currentRevision") == status.get("updateRevision")
    else:
        good = good and int(status.get("availableReplicas") or 0) == wanted
    old = f", {current - updated} of the old kind" if current > updated else ""
    return Progress(name, good, f"{ready}/{wanted} ready{old}")


def outdated_workloads(manifests: Sequence[Manifest], pods: list[Manifest], deployment: str) -> dict[str, list[int]]:
    """Instances of InferServiceSets whose pods have another template than the one applied: numbers by role.

    The operator does not roll a changed template out to workloads that exist.
    """
    found: dict[str, list[int]] = {}
    for manifest in manifests:
        if manifest.get("kind") != SET_KIND:
            continue
        for role in set_roles(stamped(manifest, deployment)):
            wanted = role["spec"]["template"]["metadata"]["annotations"][TEMPLATE_ANNOTATION]
            for index, instance in sorted(pods_of_set(name_of(manifest), role["name"], pods).items()):
                if any(_template_of(pod) != wanted for pod in instance if not pod["metadata"].get("deletionTimestamp")):
                    found.setdefault(role["name"], []).append(index)
    return found


def wait_ready(
    kubectl: Kubectl, manifests: Sequence[Manifest], request: DeployRequest, tell: Callable[[str], None]
) -> None:
    """Until every workload is ready; each change is told. Raises `DeployError` after `timeout`."""
    ends = time.monotonic() + request.timeout
    workloads = [manifest for manifest in manifests if manifest.get("kind") in WORKLOADS]
    said: dict[str, str] = {}
    while True:
        lines = _look(kubectl, workloads)
        for name, words in lines.items():
            if said.get(name) != words:
                tell(f"  {name}: {words}")
        said = lines
        if all(words == "ready" for words in lines.values()):
            return
        if time.monotonic() > ends:
            late = "\n".join(f"    {name}: {words}" for name, words in lines.items() if words != "ready")
            raise DeployError(
                f"not everything is ready after {request.timeout:g} s:\n{late}\n"
                f"    to do: kubectl get pods -n {request.namespace}; kubectl describe pod and kubectl logs of those "
                "that are not; then run it again"
            )
        time.sleep(request.poll_seconds)


def _look(kubectl: Kubectl, workloads: Sequence[Manifest]) -> dict[str, str]:
    try:
        pods = kubectl.listed(["pods"])
        lives = [(workload, kubectl.live(workload)) for workload in workloads]
    except (TimedOutError, NoClusterError) as error:
        return {"the API server": str(error).splitlines()[0]}
    lines: dict[str, str] = {}
    for workload, live in lives:
        progress = progress_of(live, named(workload))
        if workload["kind"] == SET_KIND:
            own = [
                pod
                for role in set_roles(workload)
                for instance in pods_of_set(name_of(workload), role["name"], pods).values()
                for pod in instance
            ]
        else:
            own = pods_of_workload(workload, pods)
        troubles = sorted({f"{name_of(pod)}: {trouble}" for pod in own if (trouble := trouble_of(pod))})
        words = progress.words if not troubles else f"{progress.words}; {'; '.join(troubles)}"
        lines[progress.name] = "ready" if progress.ready else words
    return lines


def _template_of(pod: Manifest) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""))
