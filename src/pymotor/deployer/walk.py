"""Looking through objects: workloads, also those inside an InferServiceSet, and what their pods refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.deployer.naming import PART_LABEL, Manifest

WORKLOAD_KINDS = ("Deployment", "StatefulSet")


@dataclass(frozen=True)
class Workload:
    """A Deployment or StatefulSet, by itself or as a role of a set."""

    file: str
    """The object that holds it, as `InferServiceSet/vllm`."""
    path: str
    """Where its spec is in that object."""
    kind: str
    name: str
    part: str
    spec: dict[str, Any]

    @property
    def template(self) -> dict[str, Any]:
        """The pods' template; empty where there is none."""
        return mapping(self.spec.get("template"))

    @property
    def pod(self) -> dict[str, Any]:
        """The pods' spec."""
        return mapping(self.template.get("spec"))

    @property
    def labels(self) -> dict[str, str]:
        """The pods' labels."""
        return mapping(mapping(self.template.get("metadata")).get("labels"))

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers of a pod."""
        kinds = ("initContainers", "containers")
        return [one for kind in kinds for one in items(self.pod.get(kind))]


@dataclass(frozen=True)
class Service:
    """A Service, by itself or of a role of a set."""

    file: str
    path: str
    name: str
    """As it is in the cluster."""
    spec: dict[str, Any]


def identity(manifest: Manifest) -> str:
    """`Deployment/vllm-p0`, for messages."""
    return f"{manifest.get('kind', '?')}/{mapping(manifest.get('metadata')).get('name', '?')}"


def workloads(manifests: Iterable[Manifest]) -> Iterator[Workload]:
    """Every workload."""
    for manifest in manifests:
        metadata = mapping(manifest.get("metadata"))
        if manifest.get("kind") in WORKLOAD_KINDS:
            part = mapping(metadata.get("labels")).get(PART_LABEL, "")
            spec = mapping(manifest.get("spec"))
            yield Workload(identity(manifest), "$.spec", manifest["kind"], str(metadata.get("name")), part, spec)
        for index, role in enumerate(roles(manifest)):
            kind, name = str(mapping(role.get("workload")).get("kind", "")), str(role.get("name", ""))
            path = f"$.spec.template.roles[{index}].spec"
            yield Workload(identity(manifest), path, kind, name, name, mapping(role.get("spec")))


def services(manifests: Iterable[Manifest]) -> Iterator[Service]:
    """Every Service; those of a set by the name that the set's operator gives them."""
    for manifest in manifests:
        name = str(mapping(manifest.get("metadata")).get("name"))
        if manifest.get("kind") == "Service":
            yield Service(identity(manifest), "$.spec", name, mapping(manifest.get("spec")))
        for index, role in enumerate(roles(manifest)):
            for place, service in enumerate(items(role.get("services"))):
                whole = f"{service.get('name')}-{name}-0-{role.get('name')}"
                path = f"$.spec.template.roles[{index}].services[{place}].spec"
                yield Service(identity(manifest), path, whole, mapping(service.get("spec")))


def roles(manifest: Manifest) -> list[dict[str, Any]]:
    """The roles of an InferServiceSet; none of any other object."""
    if manifest.get("kind") != "InferServiceSet":
        return []
    return items(mapping(mapping(manifest.get("spec")).get("template")).get("roles"))


def takes(selector: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    """Whether a selector by labels takes an object with these; an empty one takes nothing here."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def secret_names(value: Any) -> Iterator[str]:
    """Secrets without which a pod does not start, at any depth of an object."""
    if isinstance(value, list):
        for one in value:
            yield from secret_names(one)
    if isinstance(value, dict):
        for key, inside in value.items():
            if isinstance(inside, dict) and not inside.get("optional"):
                if key in ("secretKeyRef", "secretRef") and "name" in inside:
                    yield str(inside["name"])
                elif key == "secret" and "secretName" in inside:
                    yield str(inside["secretName"])
            yield from secret_names(inside)


def items(value: object) -> list[dict[str, Any]]:
    """The dictionaries of a list; none where it is no list. A patch may put anything anywhere."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def mapping(value: object) -> dict[str, Any]:
    """The value, or an empty dictionary where it is none."""
    return value if isinstance(value, dict) else {}
