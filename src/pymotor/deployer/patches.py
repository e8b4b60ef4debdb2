"""What a user wants otherwise: YAML files of `yaml_template/`, merged over the objects that are generated.

A patch names a kind and, by the label `app.kubernetes.io/component`, a part; `metadata.name` narrows it down. The kind
`Pod` means the pods of a part, whatever makes them; Deployment and StatefulSet also mean a role of a set that becomes
one. Objects are merged key by key; lists of things with names (containers, variables, volumes, ports) by name, mounts
by path, other lists are replaced; null removes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pymotor.config import Problem
from pymotor.deployer.naming import PART_LABEL, Manifest
from pymotor.deployer.walk import WORKLOAD_KINDS, mapping, roles

_FIXED = ("apiVersion", "kind")
_KEYS = ("name", "mountPath", "containerPort", "key")
"""What tells members of a list apart, in this order."""
_TEMPLATE = "template"


@dataclass(frozen=True)
class Patch:
    """One document of a file."""

    file: str
    content: Manifest

    @property
    def kind(self) -> str:
        """Of the objects that it is for."""
        return str(self.content.get("kind", ""))

    @property
    def part(self) -> str:
        """The part that it is for; empty: all."""
        return str(mapping(mapping(self.content.get("metadata")).get("labels")).get(PART_LABEL, ""))

    @property
    def name(self) -> str:
        """The object that it is for; empty: all of its kind and part."""
        return str(mapping(self.content.get("metadata")).get("name", ""))


def read_patches(directory: Path) -> tuple[list[Patch], list[Problem]]:
    """The patches of a directory, in the order of the files' names; none where there is no directory."""
    patches: list[Patch] = []
    problems: list[Problem] = []
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        try:
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            problems.append(
                _error(str(path), "$", f"no YAML that can be read: {error}", "correct the file, or remove it")
            )
            continue
        for document in documents:
            if document is None:
                continue
            if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
                problems.append(
                    _error(str(path), "$.kind", "a patch has to name the kind of its objects", "write kind: Deployment")
                )
            else:
                patches.append(Patch(str(path), document))
    return patches, problems


def apply_patches(manifests: Sequence[Manifest], patches: Iterable[Patch]) -> tuple[list[Manifest], list[Problem]]:
    """The objects with the patches merged over copies of them; a patch for nothing is a problem."""
    result = copy.deepcopy(list(manifests))
    problems = []
    for patch in patches:
        hit = False
        for manifest in result:
            for target, change in _targets(manifest, patch):
                hit = True
                _merge_into(target, change)
        if not hit:
            problems.append(_nothing_found(result, patch))
    return result, problems


def _targets(manifest: Manifest, patch: Patch) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What a patch changes in an object, and the change."""
    metadata = mapping(manifest.get("metadata"))
    part = mapping(metadata.get("labels")).get(PART_LABEL)
    fits = (not patch.part or patch.part == part) and (not patch.name or patch.name == metadata.get("name"))
    change = {key: value for key, value in patch.content.items() if key not in _FIXED}
    change["metadata"] = _without_identity(mapping(change.get("metadata")))
    if manifest.get("kind") == patch.kind and fits:
        yield manifest, change
    elif patch.kind == "Pod" and manifest.get("kind") in WORKLOAD_KINDS and fits:
        yield mapping(mapping(manifest.get("spec")).get(_TEMPLATE)), change
    for role in roles(manifest):
        kind = mapping(role.get("workload")).get("kind")
        if (patch.part and patch.part != role.get("name")) or patch.name:
            continue
        if patch.kind == kind:
            yield role, {key: value for key, value in change.items() if key in ("metadata", "spec")}
        elif patch.kind == "Pod":
            yield mapping(mapping(role.get("spec")).get(_TEMPLATE)), change


def _without_identity(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a patch says of metadata beside which object it means."""
    rest = {key: value for key, value in metadata.items() if key not in ("name", "namespace")}
    if "labels" in rest:
        rest["labels"] = {key: value for key, value in mapping(rest["labels"]).items() if key != PART_LABEL}
    return rest


def _merge_into(target: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge_into(target[key], value)
        elif isinstance(value, list) and isinstance(target.get(key), list):
            target[key] = _merged_list(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _merged_list(old: list[Any], new: list[Any]) -> list[Any]:
    key = next((key for key in _KEYS if old and new and all(_has(one, key) for one in (*old, *new))), None)
    if key is None:
        return copy.deepcopy(new)
    merged = copy.deepcopy(old)
    places = {one[key]: one for one in merged}
    for one in new:
        if one[key] in places:
            _merge_into(places[one[key]], one)
        else:
            merged.append(copy.deepcopy(one))
    return merged


def _has(value: object, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), str | int)


def _nothing_found(manifests: Sequence[Manifest], patch: Patch) -> Problem:
    kinds = sorted(
        {str(manifest.get("kind")) for manifest in manifests if not patch.part or _part(manifest) == patch.part}
        | {
            str(mapping(role.get("workload")).get("kind"))
            for manifest in manifests
            for role in roles(manifest)
            if not patch.part or role.get("name") == patch.part
        }
    )
    of = f" of {patch.part}" if patch.part else ""
    named = f" called {patch.name}" if patch.name else ""
    return _error(
        patch.file,
        "$.kind",
        f"no {patch.kind}{of}{named} is generated, so the patch changes nothing",
        f"name one of {', '.join([*kinds, 'Pod'])}; the part stands in metadata.labels as {PART_LABEL}",
    )


def _part(manifest: Manifest) -> object:
    return mapping(mapping(manifest.get("metadata")).get("labels")).get(PART_LABEL)


def _error(file: str, path: str, message: str, suggestion: str) -> Problem:
    return Problem.error(file, path, message, suggestion=suggestion)
