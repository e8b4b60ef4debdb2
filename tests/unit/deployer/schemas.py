"""Objects against the schemas of Kubernetes; an InferServiceSet against its own, its roles as what they become."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate import utils

from pymotor.deployer.naming import Manifest

VERSIONS = ("1.25", "1.37")
_SET_SCHEMA = json.loads((Path(__file__).parent / "infer_service_set.schema.json").read_text(encoding="utf-8"))


@functools.cache
def _contents(name: str, version: str) -> object:
    return _READ(name, version)


_READ = utils.schema_contents


def check_schemas(manifests: Iterable[Manifest], version: str) -> None:
    """Raises the validators' own errors."""
    with pytest.MonkeyPatch.context() as patch:
        # It reads megabytes of schemas again for each object.
        patch.setattr(utils, "schema_contents", _contents)
        for manifest in manifests:
            if manifest["kind"] == "InferServiceSet":
                jsonschema.validate(manifest, _SET_SCHEMA)
            for whole in become(manifest):
                kubernetes_validate.validate(whole, version, strict=True)


def become(manifest: Manifest) -> Iterator[Manifest]:
    """The objects of Kubernetes itself that an object is, or becomes."""
    if manifest["kind"] != "InferServiceSet":
        yield manifest
        return
    for role in manifest["spec"]["template"]["roles"]:
        name = f"{manifest['metadata']['name']}-0-{role['name']}"
        metadata = {"name": f"{name}-0", "namespace": manifest["metadata"]["namespace"], **role["metadata"]}
        yield {**role["workload"], "metadata": metadata, "spec": role["spec"]}
        for service in role.get("services", []):
            outer = {"name": f"{service['name']}-{name}", **service["metadata"]}
            yield {"apiVersion": "v1", "kind": "Service", "metadata": outer, "spec": service["spec"]}
