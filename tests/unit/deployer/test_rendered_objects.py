"""Whole deployments: schemas of Kubernetes, the project's rules, and files that people have read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from deployments import (
    MODES,
    by_identity,
    container_of,
    deploying,
    epd_guide,
    hybrid_env,
    hybrid_guide,
    loaded,
    rendered,
    variables_of,
)
from fleets import FLEETS
from golden_trees import SHARED, assembled, layered, layers_of, shown, text_of
from schemas import VERSIONS, become, check_schemas

from pymotor.deployer.checks import check_devices, check_manifests
from pymotor.deployer.yaml_files import file_name

GOLDEN = Path(__file__).parent / "golden"
SECRETS = ("Secret/door", "Secret/inside")
HOW_TO_CHANGE = "read what changes, then run again with PYMOTOR_UPDATE_GOLDEN=1"


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
def test_a_fleet_is_right(tmp_path, name):
    user, env = FLEETS[name]
    manifests = rendered(tmp_path, user, env)

    for version in VERSIONS:
        check_schemas(manifests, version)
    assert check_manifests(manifests, SECRETS) == []
    assert check_devices(manifests, loaded(tmp_path, user, env)[0]) == []


@pytest.mark.parametrize("name", FLEETS)
def test_a_fleet_is_as_it_was_read(name, trees, golden):
    for one in trees[name]:
        assert assembled(one, golden) == one.tree, f"{one.layers[-1][1]}: {HOW_TO_CHANGE}"
    titles = {title for one in trees[name] for file, title in one.layers if file == name}
    assert golden[name].keys() <= titles, f"{golden[name].keys() - titles} is not there: {HOW_TO_CHANGE}"


def test_golden_files_show_nothing_twice(trees, golden):
    files = layered([one for fleet in trees.values() for one in fleet])

    assert golden == files, HOW_TO_CHANGE
    for name, layers in files.items():
        text = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
        assert text == text_of(layers), f"{name}: {HOW_TO_CHANGE}"


def test_golden_files_are_small_enough_to_read(golden):
    lengths = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in GOLDEN.glob("*.yaml")}

    assert lengths.keys() == {SHARED, *FLEETS} == golden.keys()
    assert lengths.pop(SHARED) < 500
    assert max(lengths.values()) < 200


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """What each fleet is made of now."""
    return {
        name: list(shown(name, rendered(tmp_path_factory.mktemp("fleet"), user, env)))
        for name, (user, env) in FLEETS.items()
    }


@pytest.fixture(scope="module")
def golden(trees):
    """What the files show, by name; with PYMOTOR_UPDATE_GOLDEN they are written anew first."""
    if os.environ.get("PYMOTOR_UPDATE_GOLDEN"):
        files = layered([one for fleet in trees.values() for one in fleet])
        for path in GOLDEN.glob("*.yaml"):
            path.unlink()
        for name, layers in files.items():
            (GOLDEN / f"{name}.yaml").write_text(text_of(layers), encoding="utf-8")
    return {path.stem: layers_of(path.read_text(encoding="utf-8")) for path in GOLDEN.glob("*.yaml")}


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


def test_a_set_of_another_name_is_found_by_that(tmp_path):
    named = deploying(hybrid_guide(), kubernetes_config={"infer_service_name": "motor"})
    objects = by_identity(rendered(tmp_path, named))

    parts = list(become(objects["InferServiceSet/motor"]))

    assert parts[0]["metadata"]["name"] == "motor-0-controller-0"
    addresses = {f"{one['metadata']['name']}.mindie-motor.svc" for one in parts if one["kind"] == "Service"}
    for one in parts:
        if one["kind"] != "Service":
            named_there = {value for name, value in variables_of(one).items() if name.endswith("_SERVICE")}
            assert named_there <= addresses, one["metadata"]["name"]


def test_a_variable_is_told_before_the_one_that_is_made_of_it(tmp_path):
    """Golden files do not show the order of variables."""
    for user, env in FLEETS.values():
        for manifest in rendered(tmp_path, user, env):
            for one in become(manifest):
                if one["kind"] in ("Deployment", "StatefulSet"):
                    told: set[str] = set()
                    for variable in container_of(one)["env"]:
                        assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= told
                        told.add(variable["name"])
