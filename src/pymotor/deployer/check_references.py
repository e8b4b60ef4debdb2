"""Rules of objects that find each other: selectors, Services, budgets, accounts, ConfigMaps, Secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pymotor.config import Problem
from pymotor.deployer.naming import TOKEN_SECRET, Manifest
from pymotor.deployer.walk import Workload, identity, items, mapping, services, takes, workloads


def selectors(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """A workload finds its own pods, and those of no other workload of its kind."""
    found = list(workloads(manifests))
    for workload in found:
        wanted = mapping(mapping(workload.spec.get("selector")).get("matchLabels"))
        if not takes(wanted, workload.labels):
            yield Problem.error(
                workload.file,
                f"{workload.path}.selector.matchLabels",
                "the selector does not match the labels of the template",
                value=wanted,
                suggestion="give the template these labels, or take them out of the selector",
            )
            continue
        others = [other.file for other in found if other is not workload and takes(wanted, other.labels)]
        if others:
            yield Problem.error(
                workload.file,
                f"{workload.path}.selector.matchLabels",
                f"the selector takes pods of {others[0]} too",
                suggestion="add a label that only its own pods have",
            )


def services_reach(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """A Service has pods behind it, and they have its port."""
    found = list(workloads(manifests))
    for service in services(manifests):
        wanted = mapping(service.spec.get("selector"))
        behind = [workload for workload in found if takes(wanted, workload.labels)]
        if not behind:
            yield Problem.error(
                service.file,
                f"{service.path}.selector",
                f"no pod has these labels, so {service.name} leads nowhere",
                suggestion="select the labels of a template",
            )
        for index, port in enumerate(items(service.spec.get("ports"))):
            path = f"{service.path}.ports[{index}]"
            target = port.get("targetPort", port.get("port"))
            if not _is_port(port.get("port")):
                yield _bad_port(service.file, f"{path}.port", port.get("port"))
            for workload in behind:
                if target not in _ports_of(workload):
                    yield Problem.error(
                        service.file,
                        f"{path}.targetPort",
                        f"no container of {workload.name} has this port",
                        value=target,
                        suggestion="name a port of the container",
                    )


def node_ports(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """A port of the nodes leads to one Service."""
    seen: dict[int, str] = {}
    for service in services(manifests):
        for index, port in enumerate(items(service.spec.get("ports"))):
            number = port.get("nodePort")
            if number is None:
                continue
            path = f"{service.path}.ports[{index}].nodePort"
            if not _is_port(number):
                yield _bad_port(service.file, path, number)
            elif seen.setdefault(number, service.name) != service.name:
                yield Problem.error(
                    service.file,
                    path,
                    f"{seen[number]} has this port of the nodes too",
                    value=number,
                    suggestion="give each its own in kubernetes_config, or 0 for any free one",
                )


def budgets_reach(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """A PodDisruptionBudget is for pods that are there."""
    found = list(workloads(manifests))
    for manifest in manifests:
        if manifest.get("kind") == "PodDisruptionBudget":
            wanted = mapping(mapping(mapping(manifest.get("spec")).get("selector")).get("matchLabels"))
            if not any(takes(wanted, workload.labels) for workload in found):
                yield Problem.error(
                    identity(manifest), "$.spec.selector", "no pod has these labels", suggestion="select a template's"
                )


def mentioned(manifests: Sequence[Manifest], expected: Sequence[str] = ()) -> Iterator[Problem]:
    """ConfigMaps, Secrets and accounts that pods name are among the objects, or known to be in the cluster."""
    known = {identity(manifest) for manifest in manifests} | {f"Secret/{TOKEN_SECRET}", *expected}
    for workload in workloads(manifests):
        for path, name in _mentions(workload):
            if name not in known:
                yield Problem.error(
                    workload.file,
                    f"{workload.path}.template.spec{path}",
                    f"{name} is not among the objects: the pod would wait for it",
                    suggestion="name one that is there",
                )


def accounts(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Rights go to accounts that are there, by roles that are there."""
    known = {identity(manifest) for manifest in manifests}
    for manifest in manifests:
        if manifest.get("kind") not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        role = mapping(manifest.get("roleRef"))
        named = [("$.roleRef", f"{role.get('kind')}/{role.get('name')}")]
        for index, subject in enumerate(items(manifest.get("subjects"))):
            named.append((f"$.subjects[{index}]", f"{subject.get('kind')}/{subject.get('name')}"))
        for path, name in named:
            if name not in known:
                yield Problem.error(
                    identity(manifest), path, f"{name} is not among the objects", suggestion="name one that is"
                )


def _mentions(workload: Workload) -> Iterator[tuple[str, str]]:
    """What a pod names: where, and `ConfigMap/motor-config`."""
    pod = workload.pod
    if pod.get("serviceAccountName"):
        yield ".serviceAccountName", f"ServiceAccount/{pod['serviceAccountName']}"
    for index, volume in enumerate(items(pod.get("volumes"))):
        for source in [volume, *items(mapping(volume.get("projected")).get("sources"))]:
            if "configMap" in source:
                yield f".volumes[{index}]", f"ConfigMap/{source['configMap'].get('name')}"
            if "secret" in source:
                secret = source["secret"]
                yield f".volumes[{index}]", f"Secret/{secret.get('secretName') or secret.get('name')}"
    for place, container in enumerate(workload.containers):
        for index, source in enumerate(items(container.get("envFrom"))):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source and not source[key].get("optional"):
                    yield f".containers[{place}].envFrom[{index}]", f"{kind}/{source[key].get('name')}"


def _ports_of(workload: Workload) -> set[Any]:
    ports = [port for container in workload.containers for port in items(container.get("ports"))]
    return {port.get("name") for port in ports} | {port.get("containerPort") for port in ports}


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def _bad_port(file: str, path: str, value: object) -> Problem:
    return Problem.error(file, path, "no port", value=value, allowed="1 to 65535", suggestion="choose another number")
