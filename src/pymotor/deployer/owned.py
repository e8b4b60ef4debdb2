"""Which objects of a cluster belong to a deployment: each one that is applied gets labels that say so."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pymotor.deployer.kubectl import Kubectl, kind_with_group, named
from pymotor.deployer.kubectl_errors import AlreadyThereError, ForbiddenError, KindMissingError, KubectlError
from pymotor.deployer.naming import CREATE_ONLY, INSTANCE_LABEL, MANAGER, MANAGER_LABEL, Manifest

TEMPLATE_ANNOTATION = "pymotor/pod-template"
SET_KIND = "InferServiceSet"
_SETS = "inferservicesets.mindcluster.huawei.com"
_LEASE_PREFIX = "pymotor-controller-"

KINDS: tuple[str, ...] = (
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "poddisruptionbudgets.policy",
    "services",
    "networkpolicies.networking.k8s.io",
    "serviceaccounts",
    "secrets",
    "configmaps",
)
"""Kinds that a deployment may consist of, in the order in which they are deleted. Claims of volumes are not among
them: what users stored is not deleted with the engines."""
RIGHTS: tuple[str, ...] = ("rolebindings.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io")
"""Looked for in all namespaces: the Controller reads reports that others write into theirs."""
CLUSTER_KINDS: tuple[str, ...] = (
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
)

_APPLY_ORDER = (
    "Namespace",
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "Service",
    "PodDisruptionBudget",
)
"""What others need comes first; kinds that are not named are last, in the order given."""


def in_apply_order(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Namespace, ConfigMaps, Secrets, then the rest so that what is referred to is there before who refers to it."""
    places = {kind: place for place, kind in enumerate(_APPLY_ORDER)}
    return sorted(manifests, key=lambda manifest: places.get(str(manifest.get("kind")), len(places)))


def stamped(manifest: Manifest, deployment: str) -> Manifest:
    """A copy with the deployment's labels, and in an InferServiceSet each pod template with its own digest.

    The digest is what tells pods of an old template from new ones: the operator of InferServiceSet leaves workloads
    that exist as they are.
    """
    result = copy.deepcopy(manifest)
    # A namespace may hold what is not ours, and is never deleted with a deployment.
    if result.get("kind") != "Namespace":
        _section(result, "metadata", "labels").update({INSTANCE_LABEL: deployment, MANAGER_LABEL: MANAGER})
    if result.get("kind") == SET_KIND:
        for role in set_roles(result):
            template = _section(role, "spec", "template")
            _section(template, "metadata", "annotations")[TEMPLATE_ANNOTATION] = _digest(template)
    return result


def set_roles(infer_service_set: Manifest) -> list[dict[str, Any]]:
    """The roles of an InferServiceSet."""
    roles = infer_service_set.get("spec", {}).get("template", {}).get("roles", [])
    return roles if isinstance(roles, list) else []


def put(kubectl: Kubectl, manifest: Manifest) -> str:
    """Apply an object, or create one that is left alone once it is there; what came of it. Raises `KubectlError`."""
    own = stamped(manifest, kubectl.namespace)
    if not created_only(manifest):
        return kubectl.apply(own)
    try:
        kubectl.create(own)
    except AlreadyThereError:
        return f"{named(manifest)} is there and stays as it is"
    return f"{named(manifest)} created"


def put_all(kubectl: Kubectl, manifests: Sequence[Manifest], tell: Callable[[str], None]) -> None:
    """Apply objects in the order in which they need each other. Raises `KubectlError` for the first that is refused."""
    ordered = in_apply_order(manifests)
    for manifest in ordered:
        if created_only(manifest):
            tell(put(kubectl, manifest))
    applied = [manifest for manifest in ordered if not created_only(manifest)]
    try:
        tell(kubectl.apply_all([stamped(manifest, kubectl.namespace) for manifest in applied]))
    except KubectlError:
        # What can be applied is; one by one the error names its object, or it was a passing one.
        for manifest in applied:
            tell(put(kubectl, manifest))


def owned_objects(kubectl: Kubectl, deployment: str) -> tuple[list[Manifest], list[str]]:
    """The objects that carry the deployment's labels, sets and workloads first, and what could not be looked at.

    Raises `KubectlError` where the namespace itself cannot be looked at.
    """
    selector = f"{MANAGER_LABEL}={MANAGER},{INSTANCE_LABEL}={deployment}"
    try:
        found = kubectl.listed([_SETS], selector=selector)
    except KindMissingError:
        found = []
    found += [one for one in kubectl.listed(KINDS, selector=selector) if not _is_made_by_another(one)]
    rights, without_rights = _outside(kubectl, RIGHTS, selector, everywhere=True)
    of_cluster, without_cluster = _outside(kubectl, CLUSTER_KINDS, selector, everywhere=False)
    return found + rights + of_cluster, without_rights + without_cluster


def controller_leases(kubectl: Kubectl) -> list[Manifest]:
    """The Leases that Controllers made: no object of the deployer's, so without a label. Raises `KubectlError`."""
    leases = kubectl.listed(["leases.coordination.k8s.io"])
    return [lease for lease in leases if str(lease["metadata"]["name"]).startswith(_LEASE_PREFIX)]


def without(objects: Iterable[Manifest], others: Iterable[Manifest]) -> list[Manifest]:
    """Those objects that the others do not have by kind and name."""
    names = {_identity(other) for other in others}
    return [one for one in objects if _identity(one) not in names]


def find(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest | None:
    """The object of that kind and name."""
    return next((one for one in manifests if named(one) == f"{kind} {name}"), None)


def changed_templates(live: Manifest, wanted: Manifest) -> list[str]:
    """The roles that both InferServiceSets have, with another pod template in each; both are stamped."""
    before, after = _role_digests(live), _role_digests(wanted)
    return sorted(role for role in before.keys() & after.keys() if before[role] != after[role])


def created_only(manifest: Manifest) -> bool:
    """Whether the object is made where it is missing and then left alone."""
    return CREATE_ONLY in (manifest["metadata"].get("annotations") or {})


def _outside(
    kubectl: Kubectl, kinds: Sequence[str], selector: str, *, everywhere: bool
) -> tuple[list[Manifest], list[str]]:
    """Objects outside of the namespace, which not everybody may look at."""
    try:
        return kubectl.listed(kinds, selector=selector, namespaced=False, everywhere=everywhere), []
    except ForbiddenError as error:
        words = " and ".join(kind.split(".")[0] for kind in kinds)
        return [], [f"perhaps {words}, which this user may not look at: {error.said.splitlines()[0]}"]


def _identity(manifest: Manifest) -> tuple[str, str]:
    # The namespace does not count: an object that names none is in the deployment's, and no two of one deployment
    # have a kind and a name in common.
    return kind_with_group(manifest), str(manifest["metadata"]["name"])


def _is_made_by_another(manifest: Manifest) -> bool:
    # Workloads of a set may have taken over its labels; they end with their owner.
    return any(owner.get("controller") for owner in manifest["metadata"].get("ownerReferences", []))


def _section(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        if value.get(key) is None:
            value[key] = {}
        value = value[key]
    return value


def _digest(template: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]


def _role_digests(infer_service_set: Manifest) -> dict[str, str]:
    found: dict[str, str] = {}
    for role in set_roles(infer_service_set):
        metadata = role.get("spec", {}).get("template", {}).get("metadata") or {}
        found[role["name"]] = str((metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""))
    return found
