"""What is looked at before anything is changed: namespace, kinds, Secrets, and each object by the API server itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pymotor.config import UserConfig
from pymotor.deployer.changes import config_of, mode_of
from pymotor.deployer.kubectl import Kubectl, kind_with_group, named
from pymotor.deployer.kubectl_errors import (
    ForbiddenError,
    KubectlError,
    KubectlMissingError,
    NamespaceMissingError,
    NoClusterError,
)
from pymotor.deployer.naming import CONFIG_MAP, INSTANCE_LABEL, Manifest
from pymotor.deployer.owned import SET_KIND, created_only, find, stamped
from pymotor.deployer.request import DeployError
from pymotor.deployer.walk import secret_names

_PORT_KEYS = ("coordinator_node_port", "observability_node_port", "alarm_node_port")


def make_namespace(kubectl: Kubectl, tell: Callable[[str], None]) -> None:
    """Create the namespace where it is missing. Raises `KubectlError`."""
    namespace = kubectl.namespace
    if not namespace_is_there(kubectl):
        try:
            kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        except ForbiddenError as error:
            raise NamespaceMissingError(
                f"create the namespace {namespace}",
                error.said,
                f"ask an administrator of the cluster for it: kubectl create namespace {namespace}",
            ) from error
        tell(f"namespace {namespace} created")


def namespace_is_there(kubectl: Kubectl) -> bool:
    """Whether the namespace exists; who may not see it is taken to be one who was given it. Raises `KubectlError`."""
    try:
        found = kubectl.get("namespace", kubectl.namespace, namespaced=False)
    except ForbiddenError:
        return True
    if found is not None and (found.get("status") or {}).get("phase") == "Terminating":
        raise DeployError(
            f"the namespace {kubectl.namespace} is being deleted\n"
            f"    to do: wait for its end (kubectl get namespace {kubectl.namespace}), then run it again"
        )
    return found is not None


def check_mode(kubectl: Kubectl, manifests: Sequence[Manifest]) -> None:
    """Raises `DeployError` where the namespace has a deployment of the other mode: the ports of both would meet."""
    live = kubectl.get("configmap", CONFIG_MAP)
    new = find(manifests, "ConfigMap", CONFIG_MAP)
    if live is None or new is None:
        return
    before = mode_of(config_of(live, where=f"the namespace {kubectl.namespace}"))
    after = mode_of(config_of(new, where="what was made of the configuration"))
    if before != after:
        raise DeployError(
            f"{kubectl.namespace} was deployed with deploy_mode {before}, and is to be {after} now\n"
            f"    to do: bash delete.sh {kubectl.namespace}, then run deploy.py again"
        )


def check_secrets(kubectl: Kubectl, manifests: Sequence[Manifest]) -> None:
    """Raises `DeployError` where a pod needs a Secret that is neither there nor about to be."""
    made = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Secret"}
    for name, user in sorted(_secrets_used(manifests).items()):
        if name not in made and kubectl.get("secret", name) is None:
            raise DeployError(
                f"the Secret {name}, which {user} uses, is not in the namespace {kubectl.namespace}\n"
                f"    to do: create it: kubectl create secret generic {name} -n {kubectl.namespace} --from-file=..."
            )


def check_node_ports(kubectl: Kubectl, manifests: Sequence[Manifest], user: UserConfig) -> None:
    """Raises `DeployError` where another deployment has a port of the nodes that this one is to have.

    The Services of an InferServiceSet are made by its operator, so the API server is not asked about them. Who may not
    see other namespaces is not told; `KubectlError` for all else.
    """
    wanted = set(_node_ports(manifests))
    try:
        services = kubectl.listed(["services"], namespaced=False, everywhere=True) if wanted else []
    except ForbiddenError:
        return
    config = user.motor_deploy_config.kubernetes_config
    for service in services:
        metadata = service["metadata"]
        if (metadata.get("labels") or {}).get(INSTANCE_LABEL) == kubectl.namespace:
            continue
        for number in sorted(wanted.intersection(_node_ports([service]))):
            key = next((name for name in _PORT_KEYS if getattr(config, name) == number), "yaml_template/")
            raise DeployError(
                f"port {number} of the nodes belongs to the Service {metadata['name']} of the namespace "
                f"{metadata.get('namespace')}\n"
                f"    to do: choose another one in motor_deploy_config.kubernetes_config.{key}, or 0 for any free one"
            )


def check_accepted(kubectl: Kubectl, manifests: Sequence[Manifest]) -> None:
    """Ask the API server whether it would take each object. Raises `DeployError` with all that it refuses."""
    if any(manifest["kind"] == SET_KIND for manifest in manifests):
        # First, since without the definition there is no use in anything else.
        kubectl.listed([kind_with_group(next(one for one in manifests if one["kind"] == SET_KIND))])
    wanted = [stamped(manifest, kubectl.namespace) for manifest in manifests if not created_only(manifest)]
    try:
        kubectl.apply_all(wanted, dry_run=True)
    except (NoClusterError, KubectlMissingError):
        raise
    except KubectlError:
        # Which of them it was, and each of them, say only calls for one object.
        refused = [words for words in (_refusal(kubectl, one) for one in wanted) if words]
        if refused:
            raise DeployError("\n".join(refused) + "\n    nothing was changed in the cluster") from None


def _node_ports(value: Any) -> Iterator[int]:
    """All ports of nodes that are named in objects, at any depth."""
    if isinstance(value, dict):
        if value.get("nodePort"):
            yield int(value["nodePort"])
        for inside in value.values():
            yield from _node_ports(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _node_ports(inside)


def _refusal(kubectl: Kubectl, manifest: Manifest) -> str:
    try:
        kubectl.apply(manifest, dry_run=True)
    except (NoClusterError, KubectlMissingError):
        raise
    except KubectlError as error:
        return str(error)
    return ""


def _secrets_used(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Names of Secrets, each with an object that cannot start without it."""
    return {name: named(manifest) for manifest in manifests for name in secret_names(manifest)}
