"""`--update_instance_num`: what is too few is added, what is too many is drained and removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymotor.config import json_path
from pymotor.deployer.changes import check_scaling, config_of
from pymotor.deployer.draining import drain_pods
from pymotor.deployer.kubectl import Kubectl, named
from pymotor.deployer.naming import CONFIG_MAP, Manifest
from pymotor.deployer.owned import (
    SET_KIND,
    changed_templates,
    find,
    owned_objects,
    put_all,
    set_roles,
    stamped,
    without,
)
from pymotor.deployer.pods import name_of, pods_of_set, pods_of_workload
from pymotor.deployer.request import DeployError, DeployRequest

_ENGINES = ("encode", "prefill", "decode", "union")
_BUDGET = "PodDisruptionBudget"


def scale(kubectl: Kubectl, manifests: Sequence[Manifest], request: DeployRequest, tell: Callable[[str], None]) -> None:
    """Bring the number of instances to what the manifests have, and touch nothing else that runs.

    What is to be done is seen from the cluster's objects, not from the numbers: a run that broke off is finished by
    the next one. Raises `DeployError`, `KubectlError`.
    """
    new_map = find(manifests, "ConfigMap", CONFIG_MAP)
    old = config_of(kubectl.get("configmap", CONFIG_MAP), where=f"the namespace {request.namespace}")
    changed = check_scaling(old, config_of(new_map, where="what was made of the configuration"))
    tell(
        f"changed: {', '.join(json_path(path) for path in changed)}" if changed else "the instance numbers are the same"
    )
    there, _ = owned_objects(kubectl, request.namespace)
    missing = without(manifests, there)
    surplus = [
        one for one in without(there, manifests) if one["kind"] in ("Deployment", "StatefulSet", "Service", _BUDGET)
    ]
    pods = kubectl.listed(["pods"])
    going = [
        pod for one in surplus if one["kind"] in ("Deployment", "StatefulSet") for pod in pods_of_workload(one, pods)
    ]
    going += [pod for manifest in manifests for pod in _pods_beyond(kubectl, manifest, pods)]
    for manifest in manifests:
        _check_templates(kubectl, manifest, request)
    drain_pods(kubectl, request, [name_of(pod) for pod in going], "there are to be fewer instances", tell)
    # Workloads that stay are left as they are: a newer PyMotor may make other templates of the same configuration, and
    # scaling is no reason to restart them. A set has its numbers inside.
    wanted = [one for one in manifests if one in missing or one is new_map or one["kind"] in (SET_KIND, _BUDGET)]
    put_all(kubectl, wanted, tell)
    for one in surplus:
        kubectl.delete(one)
        tell(f"{named(one)} removed")


def _pods_beyond(kubectl: Kubectl, manifest: Manifest, pods: list[Manifest]) -> list[Manifest]:
    """Pods of instances that an InferServiceSet will no longer have: its operator removes the highest numbers."""
    if manifest["kind"] != SET_KIND:
        return []
    live = kubectl.live(manifest)
    if live is None:
        return []
    return [
        pod
        for role in set_roles(manifest)
        for index, instance in pods_of_set(name_of(manifest), role["name"], pods).items()
        if role["name"] in _ENGINES and index >= int(role["replicas"])
        for pod in instance
    ]


def _check_templates(kubectl: Kubectl, manifest: Manifest, request: DeployRequest) -> None:
    """Raises `DeployError` where more than numbers would change in an InferServiceSet."""
    if manifest["kind"] != SET_KIND:
        return
    live = kubectl.live(manifest)
    others = changed_templates(live, stamped(manifest, request.namespace)) if live is not None else []
    if others:
        raise DeployError(
            f"the pod templates of {', '.join(others)} are not those of the cluster, though the configuration is the "
            "same: PyMotor, env.json or yaml_template/ changed since\n"
            "    to do: run deploy.py --recreate without --update_instance_num first"
        )
