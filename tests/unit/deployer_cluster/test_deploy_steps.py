"""Deploying, again and in part: what is in the cluster afterwards, and what the user is told."""

from __future__ import annotations

import pytest
from cluster_played import Cluster
from objects_made import in_set, separate

FORBIDDEN = (
    'Error from server (Forbidden): deployments.apps "vllm-d1" is forbidden: User "eve" cannot patch resource '
    '"deployments" in API group "apps" in the namespace "mindie-motor"'
)
CONFLICT = (
    'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas\n'
    "Please review the fields above--they currently have other managers."
)
UNAVAILABLE = "Unable to connect to the server: net/http: TLS handshake timeout"


def test_everything_is_there_and_labelled(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(separate()) == 0
    assert cluster.said[-1] == "...... all deploy end."
    assert cluster.names() == {
        "ConfigMap/motor-config",
        "Deployment/mindie-motor-controller",
        "Deployment/vllm-d0",
        "Deployment/vllm-d1",
        "Secret/motor-cluster-token",
        "Service/mindie-motor-coordinator-infer",
    }
    labels = cluster.objects("Deployment")["vllm-d0"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "mindie-motor"
    assert labels["app.kubernetes.io/managed-by"] == "pymotor"
    applied = [line for words in cluster.said for line in words.splitlines() if "serverside-applied" in line]
    assert applied[0].startswith("configmap/motor-config")


def test_a_second_deploy_changes_nothing(cluster: Cluster) -> None:
    assert cluster.deploy(separate()) == 0
    before = {kind: cluster.objects(kind) for kind in ("Deployment", "Secret", "ConfigMap", "Service", "Pod")}
    again = separate()
    next(one for one in again if one["kind"] == "Secret")["data"]["token"] = "YW5vdGhlcg=="
    assert cluster.deploy(again) == 0
    assert {kind: cluster.objects(kind) for kind in before} == before


def test_a_missing_namespace_is_made(cluster: Cluster) -> None:
    (cluster.directory / "objects" / "Namespace" / "_" / "mindie-motor.json").unlink()
    assert cluster.deploy(separate()) == 0
    assert "namespace mindie-motor created" in cluster.said
    assert "mindie-motor" in cluster.objects("Namespace")


def test_who_may_not_make_the_namespace_is_told_how(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    (cluster.directory / "objects" / "Namespace" / "_" / "mindie-motor.json").unlink()
    cluster.play("namespace/mindie-motor", 'Error from server (Forbidden): namespaces "mindie-motor" is forbidden')
    assert cluster.deploy(separate()) == 1
    assert "kubectl create namespace mindie-motor" in capsys.readouterr().err
    assert cluster.names() == set()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (FORBIDDEN, "ask an administrator"),
        (CONFLICT, "--force-conflicts"),
        (UNAVAILABLE, "kubectl"),
        ("Error from server (Timeout): the server was unable to return a response in the time allotted", "readyz"),
        ("The connection to the server localhost:8080 was refused", "KUBECONFIG"),
        ("error: You must be logged in to the server (Unauthorized)", "credentials"),
        ('Error from server (BadRequest): strict decoding error: unknown field "spec.selectr"', "yaml_template/"),
    ],
)
def test_what_is_refused_is_told_before_anything_is_changed(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], said: str, told: str
) -> None:
    cluster.play("--dry-run=server -n mindie-motor deployment/vllm-d1", said, times=2)
    assert cluster.deploy(separate()) == 1
    error = capsys.readouterr().err
    assert told in error
    assert said.splitlines()[0] in error
    # Where no server answers, no object is to blame.
    assert "Deployment vllm-d1" in error or "apply 5 objects" in error
    assert cluster.names() == set()
    assert "...... all deploy end." not in cluster.said


def test_a_deploy_that_broke_off_is_finished_by_the_next(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.play("-f - -n mindie-motor deployment/vllm-d0", FORBIDDEN, times=2)
    assert cluster.deploy(separate()) == 1
    assert "Deployment vllm-d0" in capsys.readouterr().err
    assert "Deployment/vllm-d0" not in cluster.names()
    assert "ConfigMap/motor-config" in cluster.names()
    assert cluster.deploy(separate()) == 0
    assert len(cluster.objects("Deployment")) == 3


def test_without_the_definition_nothing_is_applied(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.set(kinds_missing=["InferServiceSet"])
    assert cluster.deploy(in_set()) == 1
    error = capsys.readouterr().err
    assert "infer-operator" in error
    assert '"deploy_mode": "multi_deployment"' in error
    assert cluster.names() == set()


def test_a_secret_that_nobody_made(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    manifests = separate()
    volume = {"name": "tls", "secret": {"secretName": "motor-infer-tls"}}
    manifests[0]["spec"]["template"]["spec"]["volumes"] = [volume]
    assert cluster.deploy(manifests) == 1
    assert "the Secret motor-infer-tls, which Deployment mindie-motor-controller uses" in capsys.readouterr().err
    assert cluster.names() == set()


def test_what_is_no_longer_configured_is_removed_and_nothing_else(cluster: Cluster) -> None:
    cluster.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-somebody-else"}})
    assert cluster.deploy(separate(decode=3)) == 0
    assert cluster.deploy(separate(decode=1)) == 0
    assert set(cluster.objects("Deployment")) == {"mindie-motor-controller", "vllm-d0"}
    assert "of-somebody-else" in cluster.objects("ConfigMap")
    assert "Deployment vllm-d2 removed: it is no longer configured" in cluster.said


def test_the_other_mode_is_refused(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(separate()) == 0
    before = cluster.names()
    assert cluster.deploy(in_set()) == 1
    assert "bash delete.sh mindie-motor" in capsys.readouterr().err
    assert cluster.names() == before


def test_kubectl_is_missing(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    (cluster.bin / "kubectl").unlink()
    assert cluster.deploy(separate()) == 1
    assert "install kubectl" in capsys.readouterr().err


def test_a_changed_template_of_a_set_is_not_called_deployed(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.deploy(in_set()) == 0
    assert cluster.deploy(in_set(image="pymotor:2")) == 1
    error = capsys.readouterr().err
    assert "controller 0, decode 0, 1" in error
    assert "--recreate" in error
    assert cluster.deploy(in_set(image="pymotor:2")) == 1, "the set has the new template, the pods have not"


def test_recreate_makes_pods_of_the_new_template(cluster: Cluster) -> None:
    assert cluster.deploy(in_set()) == 0
    instances = [{"name": f"decode-{number}", "nodes": [f"vllm-0-decode-{number}-0"]} for number in range(2)]
    cluster.set(instances=instances)
    assert cluster.deploy(in_set(image="pymotor:2"), recreate=True) == 0
    images = {pod["spec"]["containers"][0]["image"] for pod in cluster.objects("Pod").values()}
    assert images == {"pymotor:2"}
    drained = [call[call.index("drain") + 1] for call in cluster.calls("exec") if "drain" in call]
    assert drained == ["decode-0", "decode-1"]


def test_diff_shows_and_changes_nothing(cluster: Cluster) -> None:
    assert cluster.deploy(separate(), diff=True) == 0
    assert cluster.said[-1] == "6 of 6 objects would change"
    assert cluster.names() == set()
    assert cluster.deploy(separate()) == 0
    assert cluster.deploy(separate(), diff=True) == 0
    assert cluster.said == ["nothing would change"]
    assert cluster.deploy(separate(decode=1, image="pymotor:2"), diff=True) == 0
    told = "\n".join(cluster.said)
    assert '+      "image": "pymotor:2"' in told
    assert "Deployment vllm-d1 would be removed" in told
    assert "Deployment/vllm-d1" in cluster.names()


def test_diff_without_the_namespace(cluster: Cluster) -> None:
    (cluster.directory / "objects" / "Namespace" / "_" / "mindie-motor.json").unlink()
    assert cluster.deploy(separate(), diff=True) == 0
    assert "Deployment vllm-d0 would be created" in cluster.said
