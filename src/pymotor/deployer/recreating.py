"""Workloads of an InferServiceSet that are made anew, one instance after the other, because its operator does not roll
a changed pod template out to those that exist."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pymotor.deployer.draining import drain_pods
from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.naming import Manifest
from pymotor.deployer.owned import SET_KIND, set_roles
from pymotor.deployer.pods import INDEX_LABEL, ROLE_LABEL, SERVICE_LABEL, labels_of, name_of, pods_of_set
from pymotor.deployer.request import DeployError, DeployRequest
from pymotor.deployer.rollout import outdated_workloads

_KINDS = {"Deployment": "deployments.apps", "StatefulSet": "statefulsets.apps"}
_CONTROL = ("controller", "coordinator")


def recreate(
    kubectl: Kubectl, manifests: Sequence[Manifest], request: DeployRequest, tell: Callable[[str], None]
) -> None:
    """Drain, delete and wait for the successor of each instance whose pods have an old template.

    Raises `DeployError`, `KubectlError`.
    """
    ends = time.monotonic() + request.timeout
    outdated = outdated_workloads(manifests, kubectl.listed(["pods"]), request.namespace)
    # Engines first: they report to whichever Controller there is, and a new one only has to listen once.
    for role in sorted(outdated, key=lambda name: name in _CONTROL):
        for index in outdated[role]:
            for manifest in manifests:
                if manifest.get("kind") == SET_KIND and role in {one["name"] for one in set_roles(manifest)}:
                    _recreate_one(kubectl, manifests, manifest, request, (role, index), ends, tell)


def _recreate_one(
    kubectl: Kubectl,
    manifests: Sequence[Manifest],
    infer_service_set: Manifest,
    request: DeployRequest,
    which: tuple[str, int],
    ends: float,
    tell: Callable[[str], None],
) -> None:
    role, index = which
    set_name = name_of(infer_service_set)
    pods = pods_of_set(set_name, role, kubectl.listed(["pods"])).get(index, [])
    if role not in _CONTROL:
        drain_pods(kubectl, request, [name_of(pod) for pod in pods], "its pods are made anew", tell)
    kind = next(one["workload"]["kind"] for one in set_roles(infer_service_set) if one["name"] == role)
    tell(f"making {role} {index} anew")
    for workload in kubectl.listed([_KINDS[kind]], selector=f"{ROLE_LABEL}={role},{INDEX_LABEL}={index}"):
        if labels_of(workload).get(SERVICE_LABEL, "").rpartition("-")[0] == set_name:
            kubectl.delete(workload)
    while not _is_new(kubectl, manifests, set_name, request, which):
        if time.monotonic() > ends:
            raise DeployError(
                f"{role} {index} was deleted and is not ready again after {request.timeout:g} s\n"
                f"    to do: kubectl get pods -n {request.namespace}; then run deploy.py --recreate again"
            )
        time.sleep(request.poll_seconds)


def _is_new(
    kubectl: Kubectl, manifests: Sequence[Manifest], set_name: str, request: DeployRequest, which: tuple[str, int]
) -> bool:
    role, index = which
    pods = kubectl.listed(["pods"])
    own = pods_of_set(set_name, role, pods).get(index, [])
    if index in outdated_workloads(manifests, pods, request.namespace).get(role, []):
        return False
    return bool(own) and all(_is_ready(pod) for pod in own)


def _is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return not pod["metadata"].get("deletionTimestamp") and any(
        one.get("type") == "Ready" and one.get("status") == "True" for one in conditions
    )
