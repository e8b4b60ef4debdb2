"""Accounts of pods: the Controller's has the rights that it uses, that of all others has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymotor.config import UserConfig
from pymotor.deployer.naming import CONTROLLER, Manifest, Naming, controller_lease

_CONTROLLER_ACCOUNT = "mindie-motor-controller"
_OTHER_ACCOUNT = "mindie-motor"
_GROUP = "rbac.authorization.k8s.io"


def account_of(part: str) -> str:
    """The ServiceAccount of a part."""
    return _CONTROLLER_ACCOUNT if part == CONTROLLER else _OTHER_ACCOUNT


def accounts(user: UserConfig, naming: Naming) -> Iterator[Manifest]:
    """ServiceAccounts with their roles."""
    yield _account(naming, _OTHER_ACCOUNT, "all")
    if naming.mode == "single_container":
        return
    yield _account(naming, _CONTROLLER_ACCOUNT, CONTROLLER)
    lease = controller_lease(user.motor_controller_config.standby_config.master_lock_key)
    # A name cannot be given for what is to be created.
    rules = [
        _rule("coordination.k8s.io", "leases", ["create"]),
        {**_rule("coordination.k8s.io", "leases", ["get", "update"]), "resourceNames": [lease]},
    ]
    yield from _bound(naming, "Role", naming.metadata(_CONTROLLER_ACCOUNT, CONTROLLER), rules)
    faults = user.motor_controller_config.fault_tolerance_config
    if not faults.enable_fault_tolerance:
        return
    nodes = naming.cluster_metadata(_CONTROLLER_ACCOUNT, CONTROLLER)
    yield from _bound(naming, "ClusterRole", nodes, [_rule("", "nodes", ["list", "watch"])])
    reports = naming.metadata(f"{_CONTROLLER_ACCOUNT}-{naming.namespace}", CONTROLLER, faults.configmap_namespace)
    yield from _bound(naming, "Role", reports, [_rule("", "configmaps", ["list", "watch"])])


def _account(naming: Naming, name: str, part: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": naming.metadata(name, part),
        "automountServiceAccountToken": False,
    }


def _rule(group: str, resource: str, verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": [resource], "verbs": verbs}


def _bound(naming: Naming, kind: str, metadata: dict[str, Any], rules: list[dict[str, Any]]) -> Iterator[Manifest]:
    yield {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": metadata, "rules": rules}
    yield {
        "apiVersion": f"{_GROUP}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": _CONTROLLER_ACCOUNT, "namespace": naming.namespace}],
    }
