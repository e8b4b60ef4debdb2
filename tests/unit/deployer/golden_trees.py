"""Whole deployments as text that people read: what several have in common is shown once.

An object becomes a tree in which lists of named things are mappings by name. Each layer, as "every engine pod", shows
what all its trees have in the same way; what a layer shows is not shown again. A tree is all its layers put together,
so nothing is lost: `assembled` does that, from what the files say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any, NamedTuple

import yaml

from pymotor.deployer.naming import PART_LABEL, SINGLE, Manifest
from pymotor.deployer.objects.security import runs_engines

Tree = dict[str, Any]
Files = dict[str, dict[str, Tree]]
"""By file, by layer: what it shows."""

SHARED = "shared"
_BY = ("mountPath", "name")
_ELSEWHERE = "nothing that is not shown elsewhere"
_LINE = 150


class Shown(NamedTuple):
    """One tree, and the layers that show it: the file and title of each, the last one its own."""

    layers: tuple[tuple[str, str], ...]
    tree: Tree


def shown(fleet: str, manifests: Iterable[Manifest]) -> Iterator[Shown]:
    """The trees of one deployment."""
    manifests = list(manifests)
    ascend = "huawei.com/Ascend910" in str(manifests) or "huawei.com/npu" in str(manifests)
    for manifest in manifests:
        if manifest["kind"] == "InferServiceSet":
            yield from _set(fleet, manifest, ascend)
            continue
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if "template" not in manifest.get("spec", {}):
            yield _object(fleet, name, manifest)
        else:
            yield from _workload(fleet, name, manifest, manifest["spec"], ascend)


def _set(fleet: str, manifest: Manifest, ascend: bool) -> Iterator[Shown]:
    name = manifest["metadata"]["name"]
    template = manifest["spec"]["template"]
    roles = {role["name"]: role for role in template["roles"]}
    spec = {**manifest["spec"], "template": {**template, "roles": list(roles)}}
    yield _object(fleet, f"InferServiceSet {name}", {**manifest, "spec": spec})
    for part, role in roles.items():
        yield from _workload(fleet, f"role {part}", role, role["spec"], ascend)


def _object(fleet: str, name: str, manifest: Manifest) -> Shown:
    if manifest["kind"] == "ConfigMap":
        manifest = {**manifest, "data": {key: _short(value) for key, value in manifest["data"].items()}}
    return Shown(((SHARED, f"every {manifest['kind']}"), (SHARED, name), (fleet, name)), keyed(manifest))


def _workload(fleet: str, name: str, outer: Manifest, spec: Tree, ascend: bool) -> Iterator[Shown]:
    """The workload without its pods, and its pods."""
    template = spec["template"]
    part = template["metadata"]["labels"][PART_LABEL]
    without = {**outer, "spec": {key: value for key, value in spec.items() if key != "template"}}
    kind = "role" if "workload" in outer else str(outer["kind"])
    engine = runs_engines(part)
    of_engines = (f"every {kind} of engines", f"every {kind} of Ascend engines")[: 1 + ascend] if engine else ()
    titles = (f"every {kind}", *of_engines, f"every {kind} of {part}")
    yield Shown((*((SHARED, title) for title in titles), (fleet, name)), keyed(without))
    of_engines = ("every engine pod", "every Ascend engine pod")[: 1 + ascend] if engine else ()
    of_mode = () if part == SINGLE else (f"every pod of a {kind}",)
    titles = ("every pod", *of_engines, f"every pod of {part}", *of_mode)
    here = ("every pod", *(("every engine pod",) if engine else ()), f"every pod of {part}", f"pods of {name}")
    yield Shown((*((SHARED, title) for title in titles), *((fleet, title) for title in here)), keyed(template))


def layered(trees: Iterable[Shown]) -> Files:
    """What each layer of each file shows, so that nothing is shown twice."""
    left = [(one, one.tree) for one in trees]
    files: Files = {}
    for layer in _in_order(one for one, _ in left):
        members = [(place, one, rest) for place, (one, rest) in enumerate(left) if layer in one.layers]
        alone = layer[0] == SHARED and len({one.layers[-1][0] for _, one, _ in members}) == 1
        if alone:
            continue  # shown in the file of the one that has it
        common = reduce(_both, (rest for _, _, rest in members))
        if common or layer == members[0][1].layers[-1]:
            files.setdefault(layer[0], {})[layer[1]] = common
        for place, one, rest in members:
            left[place] = (one, _without(rest, common))
    assert all(not rest for _, rest in left)
    return files


def assembled(one: Shown, files: Files) -> Tree:
    """The tree that the files show for it."""
    whole: Tree = {}
    for file, title in one.layers:
        whole = _joined(whole, files.get(file, {}).get(title, {}))
    return whole


def text_of(layers: Mapping[str, Tree]) -> str:
    """One file; what has nothing of its own is listed first."""
    without = [title for title, tree in layers.items() if not tree]
    first = [_entry(_ELSEWHERE, without)] if without else []
    return "\n".join([*first, *(_entry(title, tree) for title, tree in layers.items() if tree)])


def layers_of(text: str) -> dict[str, Tree]:
    """What a file shows."""
    layers = yaml.safe_load(text)
    return {**{title: {} for title in layers.pop(_ELSEWHERE, ())}, **layers}


def _entry(title: str, content: Any) -> str:
    lines = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=_LINE).splitlines()
    return f"{title}: {lines[0]}\n" if len(lines) == 1 else "".join([f"{title}:\n", *(f"  {line}\n" for line in lines)])


def keyed(value: Any) -> Any:
    """Lists of named things as mappings by name, the only container as `container`. Order of such lists is lost."""
    if isinstance(value, Mapping):
        found = {key: keyed(item) for key, item in value.items()}
        if len(value.get("containers", ())) == 1:
            container = {"container": keyed(value["containers"][0])}
            return {**{key: item for key, item in found.items() if key != "containers"}, **container}
        return found
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for key in _BY:
            if len({item.get(key) for item in value} - {None}) == len(value):
                return {item[key]: _named({inner: item[inner] for inner in item if inner != key}) for item in value}
        inner = [next(iter(item.items())) for item in value if len(item) == 1]
        if len(inner) == len(value) and all(isinstance(one, Mapping) and "name" in one for _, one in inner):
            # Where something comes from: {configMap: {name: motor-config}}.
            return {f"{kind} {one['name']}": {key: one[key] for key in one if key != "name"} for kind, one in inner}
    return value


def _named(rest: Tree) -> Any:
    """What a list says of something that has a name; of a variable its value alone."""
    if rest.keys() == {"value"}:
        return rest["value"]
    if rest.keys() == {"valueFrom"} and rest["valueFrom"].keys() == {"fieldRef"}:
        return rest["valueFrom"]
    return keyed(rest)


def _in_order(trees: Iterable[Shown]) -> list[tuple[str, str]]:
    """Layers, general ones first."""
    place: dict[tuple[str, str], int] = {}
    for one in trees:
        for number, layer in enumerate(reversed(one.layers)):
            place[layer] = max(place.get(layer, 0), number)
    return sorted(place, key=lambda layer: -place[layer])


def _both(one: Tree, other: Tree) -> Tree:
    """What both have in the same way."""
    found: Tree = {}
    for key in one.keys() & other.keys():
        left, right = one[key], other[key]
        if left == right:
            found[key] = left
        elif isinstance(left, dict) and isinstance(right, dict) and (inner := _both(left, right)):
            found[key] = inner
    return {key: found[key] for key in one if key in found}


def _without(tree: Tree, part: Tree) -> Tree:
    """The tree without what the part shows."""
    rest: Tree = {}
    for key, value in tree.items():
        if key not in part:
            rest[key] = value
        elif value != part[key]:
            rest[key] = _without(value, part[key])
    return rest


def _joined(one: Tree, other: Tree) -> Tree:
    whole = dict(one)
    for key, value in other.items():
        before = whole.get(key)
        whole[key] = _joined(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return whole


def _short(value: str) -> str:
    if "\n" not in value:
        return value
    return f"{len(value.splitlines())} lines, sha256 {hashlib.sha256(value.encode()).hexdigest()[:12]}"


class _Dumper(yaml.SafeDumper):
    """Whatever fits on a line is on one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, len(str(mapping)) < _LINE)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, len(str(sequence)) < _LINE)
