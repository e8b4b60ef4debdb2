"""The project's own rules find what is broken in objects that were right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from deployments import by_identity, deploying, hybrid_guide, loaded, rendered

from pymotor.deployer.checks import check_devices, check_manifests
from pymotor.deployer.naming import Manifest

Objects = dict[str, Manifest]
ENGINE, DOOR = "Deployment/vllm-u0", "Service/mindie-motor-coordinator-infer"


def pod(objects: Objects, name: str = ENGINE) -> dict[str, Any]:
    spec: dict[str, Any] = objects[name]["spec"]["template"]["spec"]
    return spec


def container(objects: Objects, name: str = ENGINE) -> dict[str, Any]:
    found: dict[str, Any] = pod(objects, name)["containers"][0]
    return found


def metadata(objects: Objects, name: str = ENGINE) -> dict[str, Any]:
    found: dict[str, Any] = objects[name]["metadata"]
    return found


BROKEN: dict[str, tuple[Callable[[Objects], object], str, str]] = {
    "no kind": (lambda o: o[ENGINE].pop("apiVersion"), ENGINE, "missing"),
    "a name with capitals": (lambda o: metadata(o).update(name="Vllm"), "Deployment/Vllm", "no name"),
    "a name that is too long": (lambda o: metadata(o).update(name="v" * 60), "Deployment/" + "v" * 60, "too long"),
    "two objects of one name": (
        lambda o: metadata(o, "Deployment/mindie-motor-controller").update(name="vllm-u0"),
        ENGINE,
        "2 objects are this one",
    ),
    "a label with a space": (lambda o: metadata(o)["labels"].update(a="b c"), ENGINE, "no label"),
    "an annotation that is a number": (lambda o: metadata(o).update(annotations={"a": 1}), ENGINE, "not a text"),
    "a ConfigMap that is too large": (
        lambda o: o["ConfigMap/motor-config"]["data"].update(x="x" * 1_100_000),
        "ConfigMap/motor-config",
        "more than Kubernetes keeps",
    ),
    "a selector of other pods": (
        lambda o: o[ENGINE]["spec"]["selector"]["matchLabels"].update(a="b"),
        ENGINE,
        "does not match",
    ),
    "a selector that takes too much": (
        lambda o: o[ENGINE]["spec"]["selector"].update(matchLabels={"app.kubernetes.io/name": "pymotor"}),
        ENGINE,
        "takes pods of",
    ),
    "a Service to nowhere": (lambda o: o[DOOR]["spec"]["selector"].update(a="b"), DOOR, "leads nowhere"),
    "a Service to no port": (lambda o: o[DOOR]["spec"]["ports"][0].update(targetPort="x"), DOOR, "has this port"),
    "a port that is none": (lambda o: o[DOOR]["spec"]["ports"][0].update(port=99999), DOOR, "no port"),
    "a port of nodes that is none": (lambda o: o[DOOR]["spec"]["ports"][0].update(nodePort=0), DOOR, "no port"),
    "one port of nodes twice": (
        lambda o: o[DOOR]["spec"]["ports"][0].update(nodePort=31017),
        "Service/mindie-motor-coordinator-obs",
        "this port of the nodes too",
    ),
    "a budget for nobody": (
        lambda o: o["PodDisruptionBudget/mindie-motor-union"]["spec"]["selector"]["matchLabels"].update(a="b"),
        "PodDisruptionBudget/mindie-motor-union",
        "no pod has these labels",
    ),
    "a ConfigMap that is not there": (lambda o: o.pop("ConfigMap/motor-env-union"), ENGINE, "is not among the objects"),
    "an account that is not there": (lambda o: pod(o).update(serviceAccountName="x"), ENGINE, "ServiceAccount/x"),
    "rights for nobody": (
        lambda o: o["RoleBinding/mindie-motor-controller"]["subjects"][0].update(name="x"),
        "RoleBinding/mindie-motor-controller",
        "ServiceAccount/x is not",
    ),
    "a role that is not there": (
        lambda o: o["RoleBinding/mindie-motor-controller"]["roleRef"].update(name="x"),
        "RoleBinding/mindie-motor-controller",
        "Role/x is not",
    ),
    "no container": (lambda o: pod(o).update(containers=[]), ENGINE, "no container"),
    "a container with capitals": (lambda o: container(o).update(name="Engine"), ENGINE, "no name"),
    "an image that is none": (lambda o: container(o).update(image="a b"), ENGINE, "no reference to an image"),
    "a container's port out of range": (
        lambda o: container(o)["ports"][0].update(containerPort=99999),
        ENGINE,
        "no port",
    ),
    "a port's name that is too long": (
        lambda o: container(o)["ports"].append({"name": "sixteen-letters-", "containerPort": 9}),
        ENGINE,
        "no name of a port",
    ),
    "one port twice": (
        lambda o: container(o)["ports"].append({"name": "other", "containerPort": 1026}),
        ENGINE,
        "1026 is there 2 times",
    ),
    "no probe": (lambda o: container(o).pop("livenessProbe"), ENGINE, "missing"),
    "a probe of no port": (
        lambda o: container(o)["livenessProbe"]["httpGet"].update(port="x"),
        ENGINE,
        "has no such port",
    ),
    "one variable twice": (
        lambda o: container(o)["env"].append({"name": "ROLE", "value": "x"}),
        ENGINE,
        "ROLE is there 2 times",
    ),
    "a variable without a name": (lambda o: container(o)["env"].append({"name": "a b"}), ENGINE, "no name of a"),
    "a mount of nothing": (
        lambda o: container(o)["volumeMounts"].append({"name": "x", "mountPath": "/x"}),
        ENGINE,
        "no such volume",
    ),
    "a volume for nothing": (lambda o: pod(o)["volumes"].append({"name": "x", "emptyDir": {}}), ENGINE, "no container"),
    "two mounts at one place": (
        lambda o: container(o)["volumeMounts"].append({"name": "scratch", "mountPath": "/dev/shm"}),
        ENGINE,
        "/dev/shm is there 2 times",
    ),
    "a mount at a relative path": (
        lambda o: container(o)["volumeMounts"].append({"name": "scratch", "mountPath": "x"}),
        ENGINE,
        "not an absolute path",
    ),
    "the host's own directory": (
        lambda o: pod(o)["volumes"][-1]["hostPath"].update(path="/var/lib/kubelet/pods"),
        ENGINE,
        "can be taken over",
    ),
    "a limit below its request": (
        lambda o: container(o)["resources"]["limits"].update(memory="1Gi"),
        ENGINE,
        "less than what is requested",
    ),
    "devices limited otherwise": (
        lambda o: container(o)["resources"]["requests"].update({"huawei.com/Ascend910": "1"}),
        ENGINE,
        "requested as it is limited",
    ),
    "no amount": (lambda o: container(o)["resources"]["limits"].update(memory="much"), ENGINE, "no amount"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_finds(tmp_path, case):
    spoil, file, words = BROKEN[case]
    objects = by_identity(rendered(tmp_path, deploying(hybrid_guide(), deploy_mode="multi_deployment")))
    assert check_manifests(list(objects.values())) == []

    spoil(objects)

    problems = check_manifests(list(objects.values()))
    assert any(words in problem.message and problem.file == file for problem in problems), list(map(str, problems))
    assert all(problem.suggestion for problem in problems)


def test_roles_of_a_set_are_looked_into(tmp_path):
    objects = by_identity(rendered(tmp_path, hybrid_guide()))
    roles = objects["InferServiceSet/vllm"]["spec"]["template"]["roles"]
    roles[2]["spec"]["selector"]["matchLabels"]["a"] = "b"
    roles.append(copy.deepcopy(roles[1]))

    told = [f"{problem.path}: {problem.message}" for problem in check_manifests(list(objects.values()))]

    assert any(one.startswith("$.spec.template.roles[2].spec.selector.matchLabels: the selector does") for one in told)
    assert any("2 roles are called coordinator" in one for one in told)


def test_devices_have_to_be_those_that_engines_count_on(tmp_path):
    user, _ = loaded(tmp_path, hybrid_guide())
    manifests = rendered(tmp_path, deploying(hybrid_guide(), deploy_mode="multi_deployment"))
    assert check_devices(manifests, user) == []

    container(by_identity(manifests))["resources"]["limits"]["huawei.com/Ascend910"] = "1"

    (problem,) = check_devices(manifests, user)
    assert "has 1 devices, and engines count on 2" in problem.message
