"""Rules of names, labels and sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pymotor.config import Problem, json_path
from pymotor.deployer.naming import Manifest
from pymotor.deployer.walk import identity, mapping, roles, services, workloads

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LARGEST = 1_048_576
"""Bytes of data in a ConfigMap or Secret, by the API server."""
_POD_SUFFIX = 17
"""Characters that a Deployment's pods have behind its name; together they are to be a host's name."""
_SET_SUFFIX = 5
"""`-0-15`: numbers that a set's operator puts into the name of a workload."""


def complete(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Every object says what it is."""
    for manifest in manifests:
        for key in ("apiVersion", "kind"):
            if not isinstance(manifest.get(key), str) or not manifest[key]:
                yield _error(identity(manifest), f"$.{key}", "missing", suggestion=f"write {key}")
        if not mapping(manifest.get("metadata")).get("name"):
            yield _error(identity(manifest), "$.metadata.name", "missing", suggestion="name the object")


def unique(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """No two objects are one to the API server, nor two Services of a set after they are renamed."""
    names = [
        f"{identity(manifest)} of {mapping(manifest.get('metadata')).get('namespace', 'the cluster')}"
        for manifest in manifests
        if manifest.get("kind") != "Service"
    ]
    names += [f"Service/{service.name}" for service in services(manifests)]
    for name, times in Counter(names).items():
        if times > 1:
            yield _error(
                name.split(" of ")[0], "$.metadata.name", f"{times} objects are this one", suggestion="rename one"
            )
    for manifest in manifests:
        for name, times in Counter(str(role.get("name")) for role in roles(manifest)).items():
            if times > 1:
                yield _error(
                    identity(manifest),
                    "$.spec.template.roles",
                    f"{times} roles are called {name}",
                    suggestion="rename one",
                )


def legal(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Names that the API server takes, and that still fit when others are made of them."""
    for manifest in manifests:
        metadata = mapping(manifest.get("metadata"))
        name, kind = str(metadata.get("name", "")), manifest.get("kind", "")
        rbac = str(manifest.get("apiVersion", "")).startswith("rbac")
        if kind != "Service" and not rbac and not (_SUBDOMAIN.fullmatch(name) and len(name) <= 253):
            yield _bad_name(identity(manifest), "$.metadata.name", name)
        namespace = metadata.get("namespace")
        if namespace is not None and not _LABEL.fullmatch(str(namespace)):
            yield _bad_name(identity(manifest), "$.metadata.namespace", namespace)
    for service in services(manifests):
        if not _SERVICE.fullmatch(service.name):
            yield _bad_name(service.file, service.path, service.name)
    longest = {"Deployment": 63 - _POD_SUFFIX, "StatefulSet": 63 - 3}
    for workload in workloads(manifests):
        in_set = workload.file.startswith("InferServiceSet/")
        stem = f"{workload.file.partition('/')[2]}-{workload.name}" if in_set else workload.name
        room = longest.get(workload.kind, 63) - (_SET_SUFFIX if in_set else 0)
        if len(stem) > room:
            yield _error(
                workload.file,
                workload.path,
                f"pods of {stem} would have names that are too long for a host",
                value=stem,
                allowed=f"at most {room} characters",
                suggestion="choose a shorter job_id or infer_service_name",
            )


def labels_legal(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """Labels are short words, annotations are texts."""
    for manifest in manifests:
        places = [("$.metadata", mapping(manifest.get("metadata")))]
        for workload in workloads([manifest]):
            places.append((f"{workload.path}.template.metadata", mapping(workload.template.get("metadata"))))
            selector = mapping(workload.pod.get("nodeSelector"))
            places.append((f"{workload.path}.template.spec.nodeSelector", {"labels": selector}))
        for path, metadata in places:
            yield from _labels(identity(manifest), path, metadata)


def _labels(file: str, path: str, metadata: dict[str, Any]) -> Iterator[Problem]:
    for key, value in mapping(metadata.get("labels")).items():
        if not _LABEL_KEY.fullmatch(key) or not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield _error(
                file,
                f"{path}{json_path((key,))[1:]}",
                "no label that Kubernetes takes",
                value=value,
                allowed="letters, digits, -, _ and ., at most 63, in quotes",
                suggestion="choose another key or value",
            )
    for key, value in mapping(metadata.get("annotations")).items():
        if not isinstance(value, str):
            yield _error(
                file, f"{path}{json_path((key,))[1:]}", "not a text", value=value, suggestion="put it in quotes"
            )


def sizes(manifests: Sequence[Manifest]) -> Iterator[Problem]:
    """ConfigMaps and Secrets are small."""
    for manifest in manifests:
        if manifest.get("kind") not in ("ConfigMap", "Secret"):
            continue
        size = sum(len(str(value).encode()) for value in mapping(manifest.get("data")).values())
        if size > _LARGEST:
            yield _error(
                identity(manifest),
                "$.data",
                f"{size} bytes, more than Kubernetes keeps in one object",
                allowed=f"{_LARGEST} bytes",
                suggestion="make the files shorter",
            )


def _bad_name(file: str, path: str, name: object) -> Problem:
    return _error(
        file,
        path,
        "no name that Kubernetes takes",
        value=name,
        allowed="small letters, digits and -, at most 63, a letter first",
        suggestion="choose a shorter or plainer name; names begin with job_id or infer_service_name",
    )


def _error(
    file: str, path: str, message: str, *, value: object = None, allowed: str = "", suggestion: str = ""
) -> Problem:
    if value is None:
        return Problem.error(file, path, message, allowed=allowed, suggestion=suggestion)
    return Problem.error(file, path, message, value=value, allowed=allowed, suggestion=suggestion)
