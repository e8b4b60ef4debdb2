"""Patches of users: merged over the objects of the same kind and part, and checked like them."""

from __future__ import annotations

import json
import re

import yaml
from deployments import REPOSITORY, by_identity, container_of, deploying, example, hybrid_guide, rendered, role_of

from pymotor.deployer.checks import check_manifests
from pymotor.deployer.command import main
from pymotor.deployer.patches import Patch, apply_patches, read_patches

UNION = {"labels": {"app.kubernetes.io/component": "union"}}


def patched(tmp_path, user, *contents):
    manifests, problems = apply_patches(
        rendered(tmp_path, user), [Patch(f"{number}.yaml", content) for number, content in enumerate(contents)]
    )
    return manifests, problems


def test_pods_of_a_part_in_both_modes(tmp_path):
    change = {
        "kind": "Pod",
        "metadata": {**UNION, "annotations": {"team": "a"}},
        "spec": {
            "tolerations": [{"key": "npu", "operator": "Exists"}],
            "containers": [
                {"name": "union", "env": [{"name": "TMPDIR", "value": "/x"}, {"name": "MORE", "value": "1"}]}
            ],
        },
    }
    for mode in ("infer_service_set", "multi_deployment"):
        manifests, problems = patched(tmp_path, deploying(hybrid_guide(), deploy_mode=mode), change)
        assert problems == []
        workload = (
            role_of(manifests, "union") if mode == "infer_service_set" else by_identity(manifests)["Deployment/vllm-u0"]
        )
        template = workload["spec"]["template"]
        variables = {one["name"]: one.get("value") for one in container_of(workload)["env"]}
        assert (variables["TMPDIR"], variables["MORE"], variables["ROLE"]) == ("/x", "1", "union")
        assert template["metadata"]["annotations"]["team"] == "a"
        assert template["spec"]["tolerations"]
        others = [one for one in manifests if "team" in json.dumps(one)]
        assert len(others) == 1


def test_null_removes_and_a_name_narrows(tmp_path):
    manifests, problems = patched(
        tmp_path,
        deploying(hybrid_guide(), deploy_mode="multi_deployment"),
        {
            "kind": "Service",
            "metadata": {"name": "mindie-motor-coordinator-infer"},
            "spec": {"publishNotReadyAddresses": None},
        },
        {"kind": "Deployment", "metadata": UNION, "spec": {"strategy": {"type": "RollingUpdate"}}},
    )
    objects = by_identity(manifests)

    assert problems == []
    assert "publishNotReadyAddresses" not in objects["Service/mindie-motor-coordinator-infer"]["spec"]
    assert objects["Deployment/vllm-u0"]["spec"]["strategy"] == {"type": "RollingUpdate"}
    assert objects["Deployment/mindie-motor-controller"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1


def test_mounts_are_told_apart_by_path_and_what_was_rendered_stays(tmp_path):
    before = rendered(tmp_path, hybrid_guide())
    change = {
        "kind": "StatefulSet",
        "metadata": UNION,
        "spec": {
            "template": {
                "spec": {
                    "containers": [{"name": "union", "volumeMounts": [{"name": "more", "mountPath": "/more"}]}],
                    "volumes": [{"name": "more", "emptyDir": {}}],
                }
            }
        },
    }
    after, problems = apply_patches(before, [Patch("x.yaml", change)])

    assert problems == []
    mounts = container_of(role_of(after, "union"))["volumeMounts"]
    assert len(mounts) == len(container_of(role_of(before, "union"))["volumeMounts"]) + 1


def test_a_patch_for_nothing_is_told(tmp_path):
    _, (problem,) = patched(tmp_path, hybrid_guide(), {"kind": "Deployment", "metadata": UNION})

    assert "no Deployment of union is generated" in problem.message
    assert "StatefulSet" in problem.suggestion


def test_files_that_are_no_patches(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("- 1\n", encoding="utf-8")
    (tmp_path / "c.yaml").write_text("kind: Pod\n---\n---\nkind: Service\n", encoding="utf-8")

    patches, problems = read_patches(tmp_path)

    assert [problem.file for problem in problems] == [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert [patch.kind for patch in patches] == ["Pod", "Service"]
    assert read_patches(tmp_path / "nowhere") == ([], [])


def test_what_a_patch_breaks_is_found(tmp_path, capsys):
    home = tmp_path / "home"
    (home / "yaml_template").mkdir(parents=True)
    config = tmp_path / "config"
    config.mkdir()
    (config / "user_config.json").write_text(json.dumps(hybrid_guide()), encoding="utf-8")
    broken = {"kind": "Pod", "metadata": UNION, "spec": {"volumes": [{"name": "x", "hostPath": {"path": "/etc"}}]}}
    (home / "yaml_template" / "union.yaml").write_text(yaml.safe_dump(broken), encoding="utf-8")

    assert main(["--config_dir", str(config), "--dry-run"], home) == 1

    told = capsys.readouterr().err
    assert "a directory of the host itself" in told
    assert "no container mounts it" in told


def test_the_example_of_the_directory_itself(tmp_path):
    page = (REPOSITORY / "examples" / "deployer" / "yaml_template" / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    for mode in ("infer_service_set", "multi_deployment"):
        user = deploying(example("vllm"), deploy_mode=mode)
        manifests, problems = patched(tmp_path, user, yaml.safe_load(block[1]))
        assert problems == check_manifests(manifests) == []
        assert "/mnt/traces" in yaml.safe_dump_all(manifests)


def test_a_patch_that_puts_nonsense_anywhere_is_told_and_nothing_breaks(tmp_path):
    before = rendered(tmp_path, deploying(hybrid_guide(), deploy_mode="multi_deployment"))
    for place in (
        {"spec": "x"},
        {"spec": {"template": []}},
        {"spec": {"template": {"spec": {"containers": "x", "volumes": [1]}}}},
        {"spec": {"template": {"spec": {"containers": [{"name": "union", "ports": 1, "env": {}, "resources": []}]}}}},
        {"metadata": {"labels": []}},
    ):
        patch = {"kind": "Deployment", "metadata": {"name": "vllm-u0"}, **place}
        if "metadata" in place:
            patch["metadata"] = {"name": "vllm-u0", **place["metadata"]}
        after, problems = apply_patches(before, [Patch("x.yaml", patch)])
        assert problems == []
        assert "labels" in patch["metadata"] or check_manifests(after), place
