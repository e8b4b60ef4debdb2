"""Pods as the API server shows them: whose they are, how they are."""

from __future__ import annotations

from typing import Any

from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.naming import Manifest

SERVICE_LABEL = "infer.huawei.com/inferservice-name"
ROLE_LABEL = "infer.huawei.com/instanceset-name"
INDEX_LABEL = "infer.huawei.com/instanceset-index"


def name_of(manifest: Manifest) -> str:
    """Its name."""
    return str(manifest["metadata"]["name"])


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Its labels."""
    return manifest["metadata"].get("labels") or {}


def pods_of_workload(workload: Manifest, pods: list[Manifest]) -> list[Manifest]:
    """Those pods that the selector of a Deployment or StatefulSet takes. Selectors of expressions take none."""
    wanted: dict[str, str] = (workload.get("spec", {}).get("selector") or {}).get("matchLabels") or {}
    return [pod for pod in pods if wanted and wanted.items() <= labels_of(pod).items()]


def pods_of_set(set_name: str, role: str, pods: list[Manifest]) -> dict[int, list[Manifest]]:
    """The pods of one role of an InferServiceSet, by the number of their instance."""
    found: dict[int, list[Manifest]] = {}
    for pod in pods:
        labels = labels_of(pod)
        # The set has services with a number behind its name.
        service = labels.get(SERVICE_LABEL, "").rpartition("-")[0]
        if service == set_name and labels.get(ROLE_LABEL) == role and labels.get(INDEX_LABEL, "").isdecimal():
            found.setdefault(int(labels[INDEX_LABEL]), []).append(pod)
    return found


def trouble_of(pod: Manifest) -> str:
    """Why a pod does not become ready, in the words of Kubernetes; empty where it gives no reason."""
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            last = ((container.get("lastState") or {}).get("terminated") or {}).get("exitCode")
            ended = f", it ended with {last}" if last is not None else ""
            return f"{reason}{ended}"
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}".rstrip(": ")
    return ""


def container_with_role(pod: Manifest, role: str) -> dict[str, Any] | None:
    """The container of a pod that runs this part of PyMotor, known by its variable ROLE."""
    for container in pod.get("spec", {}).get("containers", []):
        if {"name": "ROLE", "value": role} in (container.get("env") or []):
            found: dict[str, Any] = container
            return found
    return None


def running_controller(kubectl: Kubectl, pods: list[Manifest] | None = None) -> tuple[Manifest, str] | None:
    """A pod whose Controller can be asked, with the name of the container. Raises `KubectlError`."""
    for pod in kubectl.listed(["pods"]) if pods is None else pods:
        container = container_with_role(pod, "controller")
        ready = any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in (pod.get("status") or {}).get("conditions") or []
        )
        if container is not None and ready and not pod["metadata"].get("deletionTimestamp"):
            return pod, str(container["name"])
    return None
