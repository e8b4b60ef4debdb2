"""`--wait`: until what was applied runs and a request is answered; only the newest generation is believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_played import Cluster
from coordinator_door import open_door
from objects_made import in_set, separate

from pymotor.deployer.rollout import progress_of


@pytest.fixture
def door() -> Iterator[str]:
    """The address of a Coordinator that answers."""
    with open_door() as address:
        yield address


@pytest.mark.parametrize("make", [separate, in_set])
def test_through_a_forwarded_port(cluster: Cluster, door: str, make: type) -> None:
    cluster.set(forward_to=door)
    assert cluster.deploy(make(), wait=True) == 0
    assert any("qwen3 answers through a forwarded port" in words for words in cluster.said)
    assert cluster.said[-1] == "...... all deploy end."
    words = ["port-forward", "-n", "mindie-motor", "service/mindie-motor-coordinator-infer", ":1025"]
    assert cluster.calls("port-forward")[0][:5] == words


def test_through_the_port_of_a_node(cluster: Cluster, door: str) -> None:
    address, _, port = door.partition(":")
    node = {"addresses": [{"type": "InternalIP", "address": address}]}
    cluster.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node01"}, "status": node})
    manifests = separate()
    service = next(one for one in manifests if one["kind"] == "Service")
    service["spec"]["ports"][0]["nodePort"] = int(port)
    assert cluster.deploy(manifests, wait=True) == 0
    assert f"qwen3 answers at http://{door}" in cluster.said


def test_what_does_not_get_ready_is_named(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.set(stuck=["vllm-d1"])
    assert cluster.deploy(separate(), wait=True, timeout=0.2) == 1
    error = capsys.readouterr().err
    assert "Deployment vllm-d1: 0/1 ready; vllm-d1-0: ImagePullBackOff" in error
    assert "vllm-d0" not in error
    assert "...... all deploy end." not in cluster.said


def test_a_ready_of_an_older_generation_is_not_believed() -> None:
    live = {
        "kind": "InferServiceSet",
        "metadata": {"generation": 2},
        "spec": {"replicas": 1},
        "status": {
            "observedGeneration": 1,
            "readyReplicas": 1,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    assert not progress_of(live, "vllm").ready
    live["status"]["observedGeneration"] = 2  # type: ignore[index]
    assert progress_of(live, "vllm").ready


def test_a_controller_that_stands_by_is_waited_for_too() -> None:
    live = {
        "kind": "Deployment",
        "metadata": {"generation": 1, "labels": {"app.kubernetes.io/component": "controller"}},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1},
    }
    assert not progress_of(live, "controller").ready
    live["status"].update(readyReplicas=2, availableReplicas=2)  # type: ignore[attr-defined]
    assert progress_of(live, "controller").ready
