"""delete.sh as users call it: all that was deployed goes, all else stays, what is left is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cluster_played import Cluster
from objects_made import in_set, separate

SCRIPT = Path(__file__).parents[3] / "examples" / "deployer" / "delete.sh"


def delete(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *words],
        env={**cluster.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        cwd=cluster.directory,
    )


@pytest.mark.parametrize("make", [separate, in_set])
def test_all_that_was_deployed_goes(cluster: Cluster, make: type) -> None:
    assert cluster.deploy(make()) == 0
    cluster.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-somebody-else"}})
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "pymotor-controller-lock"}}
    cluster.add(lease)
    cluster.add({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}})
    ended = delete(cluster, "mindie-motor")
    assert ended.returncode == 0, ended.stderr
    assert cluster.names() == {"ConfigMap/of-somebody-else", "PersistentVolumeClaim/weights"}
    assert cluster.objects("Pod") == {}
    assert "left: PersistentVolumeClaim weights" in ended.stdout
    assert "left: the namespace mindie-motor itself" in ended.stdout
    assert delete(cluster, "mindie-motor").returncode == 0, "nothing to delete is good"


def test_rights_in_the_namespace_of_others(cluster: Cluster) -> None:
    cluster.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mindx-dl"}})
    metadata = {"name": "mindie-motor-controller-mindie-motor", "namespace": "mindx-dl"}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": []}
    assert cluster.deploy([*separate(), role]) == 0
    assert cluster.deploy([*separate(), role]) == 0
    assert "Role/mindie-motor-controller-mindie-motor" in cluster.names()
    assert delete(cluster, "mindie-motor").returncode == 0
    assert cluster.names() == set()


def test_half_a_deployment(cluster: Cluster) -> None:
    cluster.play(
        "-f - -n mindie-motor deployment/vllm-d0", "Error from server (Timeout): the server was unable", times=2
    )
    assert cluster.deploy(separate()) == 1
    assert cluster.names()
    assert delete(cluster, "mindie-motor").returncode == 0
    assert cluster.names() == set()


def test_what_may_not_be_deleted_is_left_and_said(cluster: Cluster) -> None:
    assert cluster.deploy(separate()) == 0
    said = 'Error from server (Forbidden): services "mindie-motor-coordinator-infer" is forbidden'
    cluster.play("delete service", said, times=1)
    ended = delete(cluster, "mindie-motor")
    assert ended.returncode == 1
    assert "left: Service mindie-motor-coordinator-infer" in ended.stdout
    assert cluster.names() == {"Service/mindie-motor-coordinator-infer"}
    assert delete(cluster, "mindie-motor").returncode == 0


def test_no_namespace(cluster: Cluster) -> None:
    ended = delete(cluster, "elsewhere")
    assert ended.returncode == 0
    assert "is not there: nothing to delete" in ended.stdout
    assert delete(cluster, "$(touch pwned)").returncode == 2
    assert delete(cluster).returncode == 2
