"""Whole deployments: schemas of Kubernetes, the project's rules, and files that people have read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployments import (
    MODES,
    by_identity,
    deploying,
    epd_guide,
    hybrid_env,
    hybrid_guide,
    loaded,
    rendered,
)
from fleets import FLEETS
from schemas import VERSIONS, become, check_schemas

from pymotor.deployer.checks import check_devices, check_manifests
from pymotor.deployer.naming import Manifest
from pymotor.deployer.yaml_files import file_name

GOLDEN = Path(__file__).parent / "golden"
SECRETS = ("Secret/door", "Secret/inside")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guide", ["epd", "hybrid"])
def test_the_guides_configurations_are_right_in_both_modes(tmp_path, guide, mode, version):
    user, env = (epd_guide(), {}) if guide == "epd" else (hybrid_guide(), hybrid_env())

    manifests = rendered(tmp_path, deploying(user, deploy_mode=mode), env)

    check_schemas(manifests, version)
    assert check_manifests(manifests) == []
    assert check_devices(manifests, loaded(tmp_path, user, env)[0]) == []


@pytest.mark.parametrize("name", FLEETS)
def test_a_fleet_is_right_and_as_it_was_read(tmp_path, name):
    user, env = FLEETS[name]
    manifests = rendered(tmp_path, user, env)

    for version in VERSIONS:
        check_schemas(manifests, version)
    assert check_manifests(manifests, SECRETS) == []
    assert check_devices(manifests, loaded(tmp_path, user, env)[0]) == []
    text = readable(manifests)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("PYMOTOR_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "read the change, then run again with PYMOTOR_UPDATE_GOLDEN=1"


def test_there_is_no_golden_file_without_a_fleet():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(FLEETS)


def test_the_same_configuration_gives_the_same_objects(tmp_path):
    assert rendered(tmp_path, epd_guide()) == rendered(tmp_path, epd_guide())


def test_nothing_of_ascend_where_there_is_none(tmp_path):
    for hardware in ("cpu", "gpu"):
        user = deploying(hybrid_guide(), hardware_type=hardware)
        manifests = rendered(tmp_path, user, {})
        objects = [manifest for manifest in manifests if manifest["kind"] != "ConfigMap"]
        for word in ("ascend", "huawei", "hccn", "hccl", "volcano", "sp-block"):
            text = yaml.safe_dump_all(objects).lower().replace("mindcluster.huawei.com/v1", "")
            assert word not in text, f"{word} with {hardware}"


def test_two_deployments_have_no_object_in_common(tmp_path):
    found = []
    for job in ("first", "second"):
        manifests = rendered(tmp_path, deploying(hybrid_guide(), job_id=job))
        found.append({(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in manifests})

    assert not found[0] & found[1]


def test_a_set_becomes_pods_that_users_know(tmp_path):
    whole = by_identity(rendered(tmp_path, hybrid_guide()))["InferServiceSet/vllm"]

    names = [one["metadata"]["name"] for one in become(whole) if one["kind"] != "Service"]

    assert names == ["vllm-0-controller-0", "vllm-0-coordinator-0", "vllm-0-union-0"]
    assert file_name(whole) == "infer_service.yaml"


def readable(manifests: list[Manifest]) -> str:
    """The objects with short things on one line, and files in ConfigMaps as what they are told apart by."""
    shown = []
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap":
            manifest = {**manifest, "data": {key: _short(value) for key, value in manifest["data"].items()}}
        shown.append(manifest)
    return yaml.dump_all(shown, Dumper=_Dumper, sort_keys=False, width=220)


def _short(value: str) -> str:
    if "\n" not in value:
        return value
    return f"{len(value.splitlines())} lines, sha256 {hashlib.sha256(value.encode()).hexdigest()[:12]}"


class _Dumper(yaml.SafeDumper):
    """Whatever fits on a line is on one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, len(str(mapping)) < 200)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, len(str(sequence)) < 200)
