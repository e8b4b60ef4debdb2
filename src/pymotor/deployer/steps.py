"""The steps of a deploy in a cluster. Each may be run again after it broke off."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Sequence

from pymotor.config import json_path
from pymotor.deployer.changes import CONFIG_KEY, check_live_update, config_of, takers
from pymotor.deployer.cluster_checks import (
    check_accepted,
    check_mode,
    check_node_ports,
    check_secrets,
    make_namespace,
    namespace_is_there,
)
from pymotor.deployer.first_answer import wait_answered
from pymotor.deployer.kubectl import Kubectl, named
from pymotor.deployer.kubectl_errors import KubectlError
from pymotor.deployer.naming import CONFIG_MAP, Manifest
from pymotor.deployer.owned import (
    SET_KIND,
    changed_templates,
    created_only,
    find,
    in_apply_order,
    owned_objects,
    put_all,
    stamped,
    without,
)
from pymotor.deployer.recreating import recreate
from pymotor.deployer.request import DeployError, DeployRequest
from pymotor.deployer.rollout import outdated_workloads, wait_ready
from pymotor.deployer.scaling import scale
from pymotor.deployer.taken_up import wait_taken_up

Tell = Callable[[str], None]
ALL_END = "...... all deploy end."


def deploy(
    manifests: Sequence[Manifest], request: DeployRequest, kubectl: Kubectl | None = None, tell: Tell | None = None
) -> int:
    """Do what the request asks with these objects. Returns the exit status: 0 and the last line says that all is
    done, or 1 and standard error says why not and what to do."""
    tell = tell or _print
    kubectl = kubectl or Kubectl(request.namespace)
    try:
        if request.diff:
            _show_differences(kubectl, manifests, request, tell)
            return 0
        if request.update_config:
            _update_config(kubectl, manifests, request, tell)
        else:
            if request.update_instance_num:
                scale(kubectl, manifests, request, tell)
            else:
                _apply_all(kubectl, manifests, request, tell)
            if request.wait:
                wait_ready(kubectl, manifests, request, tell)
                wait_answered(kubectl, request, tell)
        if request.auto_log_collect:
            _collect_logs(request, tell)
    except (DeployError, KubectlError) as error:
        print(f"deploy failed: {error}", file=sys.stderr, flush=True)
        return 1
    tell(ALL_END)
    return 0


def _apply_all(kubectl: Kubectl, manifests: Sequence[Manifest], request: DeployRequest, tell: Tell) -> None:
    make_namespace(kubectl, tell)
    check_mode(kubectl, manifests)
    check_secrets(kubectl, manifests)
    check_node_ports(kubectl, manifests, request.user)
    check_accepted(kubectl, manifests)
    put_all(kubectl, manifests, tell)
    there, _ = owned_objects(kubectl, request.namespace)
    for one in without(there, manifests):
        kubectl.delete(one)
        tell(f"{named(one)} removed: it is no longer configured")
    if request.recreate:
        recreate(kubectl, manifests, request, tell)
    outdated = outdated_workloads(manifests, kubectl.listed(["pods"]), request.namespace)
    if outdated:
        raise DeployError(
            f"applied, but pods of {_instances(outdated)} still are what they were: the operator of InferServiceSet "
            "does not roll a changed pod template out to workloads that exist\n"
            "    to do: run deploy.py with --recreate, which drains and makes them anew, one after the other"
        )


def _update_config(kubectl: Kubectl, manifests: Sequence[Manifest], request: DeployRequest, tell: Tell) -> None:
    live = kubectl.get("configmap", CONFIG_MAP)
    old = config_of(live, where=f"the namespace {request.namespace}")
    new_map = find(manifests, "ConfigMap", CONFIG_MAP)
    changed = check_live_update(old, config_of(new_map, where="what was made of the configuration"))
    if live is None or new_map is None or not changed:
        tell("nothing to change: the cluster has this configuration")
        _follow_update(kubectl, request, live, tell)
        return
    # Start scripts and all else in the map stay those with which the pods were started.
    merged = copy.deepcopy(new_map)
    merged["data"] = {**live["data"], CONFIG_KEY: new_map["data"][CONFIG_KEY]}
    tell(kubectl.apply(stamped(merged, request.namespace)))
    tell(f"changed: {', '.join(json_path(path) for path in changed)}; pods have the new file within about a minute")
    for part, keys in takers(changed).items():
        tell(f"  {f'the {part} takes up' if part else 'no part reads'} {', '.join(keys)}")
    _follow_update(kubectl, request, merged, tell)


def _follow_update(kubectl: Kubectl, request: DeployRequest, applied: Manifest | None, tell: Tell) -> None:
    if request.wait and applied is not None:
        wait_taken_up(kubectl, request, applied["data"][CONFIG_KEY], tell)


def _show_differences(kubectl: Kubectl, manifests: Sequence[Manifest], request: DeployRequest, tell: Tell) -> None:
    if not namespace_is_there(kubectl):
        for manifest in in_apply_order(manifests):
            tell(f"{named(manifest)} would be created")
        tell(f"the namespace {request.namespace} is not there, so all {len(manifests)} objects would be created")
        return
    there, _ = owned_objects(kubectl, request.namespace)
    changes = 0
    for manifest in in_apply_order(manifests):
        # What somebody else made under that name has no label.
        live = find(there, manifest["kind"], manifest["metadata"]["name"]) or kubectl.live(manifest)
        if live is None:
            tell(f"{named(manifest)} would be created")
            changes += 1
        elif not created_only(manifest) and (difference := kubectl.diff(stamped(manifest, request.namespace))):
            tell(difference.rstrip())
            changes += 1
        if live is not None and manifest["kind"] == SET_KIND:
            roles = changed_templates(live, stamped(manifest, request.namespace))
            if roles:
                tell(f"the pods of {', '.join(roles)} would stay what they are without --recreate")
    for one in without(there, manifests):
        tell(f"{named(one)} would be removed")
        changes += 1
    tell(f"{changes} of {len(manifests)} objects would change" if changes else "nothing would change")


def _collect_logs(request: DeployRequest, tell: Tell) -> None:
    """Start the follower; it outlives this process and ends when no pod is left."""
    settings = request.home / "log_collect" / "log_config.ini"
    argv = [sys.executable, "-m", "pymotor.deployer.log_collection", "--config", str(settings)]
    started = subprocess.run(
        [*argv, "--namespace", request.namespace, "--detach"], capture_output=True, text=True, check=False
    )
    if started.returncode != 0:
        raise DeployError(f"all is deployed, but logs are not collected: {started.stderr.strip()}")
    tell(started.stdout.strip())


def _instances(outdated: dict[str, list[int]]) -> str:
    return ", ".join(f"{role} {', '.join(map(str, indexes))}" for role, indexes in outdated.items())


def _print(words: str) -> None:
    if words:
        print(words, flush=True)
