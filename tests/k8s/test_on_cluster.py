"""The life of a deployment in a real cluster: deployed, asked, scaled, changed, broken, watched, deleted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from deployment_under_test import Deployment, until

MODES = os.environ.get("PYMOTOR_K8S_MODES", "infer_service_set,multi_deployment").split(",")


@pytest.fixture(params=MODES)
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """Deployed, and asked once by the deployer itself. The namespace is gone afterwards."""
    made = Deployment(tmp_path, request.param)
    if request.param == "infer_service_set":
        kinds = made.run("kubectl", "api-resources", "--api-group=mindcluster.huawei.com", "-o", "name")
        if "inferservicesets" not in kinds:
            pytest.skip("NOT TESTED: the cluster has no InferServiceSet; install MindCluster's infer-operator")
    try:
        assert made.deploy("--wait").rstrip().endswith("...... all deploy end.")
        yield made
    finally:
        made.run("kubectl", "delete", "namespace", made.namespace, "--ignore-not-found", "--wait=true")


def answered(deployment: Deployment) -> bool:
    try:
        return deployment.ask().status_code == 200
    except httpx.HTTPError:
        return False


def logged(directory: Path) -> set[str]:
    """The pods that have a log."""
    return {file.name.split("_")[0] for file in directory.iterdir()}


def test_the_life_of_a_deployment(deployment: Deployment) -> None:
    answer = deployment.ask()
    assert answer.status_code == 200, answer.text
    assert "encode-0" in answer.headers["server-timing"]

    assert "nothing would change" in deployment.deploy("--diff")
    before = set(deployment.pods())
    deployment.deploy()
    assert set(deployment.pods()) == before, "a second deploy changes nothing"

    assert len(deployment.pods("controller")) == 2
    assert all(deployment.is_ready(pod) for pod in deployment.pods()), "a Controller that stands by is ready too"

    numbers = deployment.config["motor_deploy_config"]
    numbers["d_instances_num"] = 3
    deployment.deploy("--update_instance_num", "--wait")
    assert len(deployment.pods("decode")) == 3
    numbers["d_instances_num"] = 1
    deployment.deploy("--update_instance_num")
    until(lambda: len(deployment.pods("decode")) == 1, "two decode instances go")
    assert before <= set(deployment.pods()), "those that stay are not restarted"
    assert deployment.ask().status_code == 200

    coordinator = deployment.config["motor_coordinator_config"]
    coordinator["exception_config"] = {"max_retry": 2}
    assert "max_retry" in deployment.deploy("--update_instance_num", status=1)
    updated = deployment.deploy("--update_config", "--wait")
    assert "max_retry" in updated
    assert "in force in" in updated

    shown = deployment.run("bash", deployment.home / "show_log.sh", "--namespace", deployment.namespace, "--poll", "1")
    followed = re.search(r"(\S+) by process \d+", shown)
    assert followed is not None, shown
    directory = Path(followed[1])
    for role in ("decode", "coordinator", "controller"):
        for pod in deployment.pods(role):
            deployment.kubectl("delete", "pod", pod, "--wait=false")
    until(lambda: answered(deployment), "an answer after pods were killed")
    until(lambda: logged(directory) >= set(deployment.pods()), "logs of all pods")

    deployment.deploy("--wait")
    said = deployment.delete()
    assert f"left: the namespace {deployment.namespace}" in said
    assert deployment.pods() == []
    kinds = "deployments,statefulsets,services,secrets,poddisruptionbudgets,serviceaccounts,roles,rolebindings,leases"
    left = deployment.kubectl("get", kinds, "-o", "name").split()
    assert [one for one in left if one != "serviceaccount/default"] == []
    maps = set(deployment.kubectl("get", "configmaps", "-o", "name").split())
    assert maps <= {"configmap/kube-root-ca.crt", "configmap/openshift-service-ca.crt"}
    own = ("-l", f"app.kubernetes.io/instance={deployment.namespace}", "-o", "name")
    assert deployment.kubectl("get", "clusterroles,clusterrolebindings", *own).split() == []
