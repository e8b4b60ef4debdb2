"""A deploy that breaks off, wherever it does, is finished by the next one, or deleted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cluster_played import NAMESPACE, Cluster
from objects_made import in_set, separate

from pymotor.deployer.owned import owned_objects
from pymotor.deployer.removal import remove

SAID = (
    'Error from server (Forbidden): "mindie-motor" is forbidden: User "eve" cannot do it',
    'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas',
    "Error from server (Timeout): the server was unable to return a response in the time allotted",
    'error: resource mapping not found for name: "vllm" namespace: "" from "STDIN": no matches for kind "X" in version',
    'Error from server (NotFound): namespaces "mindie-motor" not found',
    "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?",
)


def empty(directory: Path) -> Cluster:
    """A cluster without the namespace."""
    made = Cluster(directory)
    made.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}})
    return made


def deleted(cluster: Cluster) -> int:
    return remove(cluster.kubectl(), lambda _: None, timeout=30, poll_seconds=0.01)


@pytest.mark.parametrize("make", [separate, in_set])
def test_at_each_call(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    whole = empty(tmp_path / "whole")
    assert whole.deploy(make()) == 0
    calls = (whole.directory / "calls").read_text().splitlines()
    assert len(calls) > 6
    broke_off, seen = 0, set[frozenset[str]]()
    for number in range(1, len(calls) + 1):
        said = SAID[number % len(SAID)]
        cluster = empty(tmp_path / str(number))
        cluster.set(fails_at=(number, said))
        status = cluster.deploy(make())
        told = capsys.readouterr().err
        assert (status == 0) == (cluster.said[-1:] == ["...... all deploy end."]), f"call {number}: {calls[number - 1]}"
        if status:
            broke_off += 1
            assert told.startswith("deploy failed: ")
            assert "    to do: " in told, f"call {number}, {said}: {told}"
        else:
            assert cluster.names() == whole.names()
        left = frozenset(cluster.names())
        if left not in seen:
            seen.add(left)
            cluster.set()
            ends_well(cluster, tmp_path / f"{number}-deleted", make, whole)
    assert broke_off > len(calls) / 2
    assert len(seen) > 1, "with nothing, and with all of it, there"


@pytest.mark.parametrize("make", [separate, in_set])
def test_at_each_object(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    whole = empty(tmp_path / "whole")
    assert whole.deploy(make()) == 0
    for number, manifest in enumerate(make()):
        cluster = empty(tmp_path / str(number))
        named = f"{manifest['kind'].lower()}/{manifest['metadata']['name']}"
        # Once with all the others, once alone.
        cluster.play(f"-f - -n {NAMESPACE} {named}", SAID[number % 3], times=2)
        assert cluster.deploy(make()) == 1
        assert SAID[number % 3] in capsys.readouterr().err
        assert cluster.names() != whole.names()
        for file in (cluster.directory / "played").iterdir():
            file.unlink()
        ends_well(cluster, tmp_path / f"{number}-deleted", make, whole)


def ends_well(cluster: Cluster, copy: Path, make: Any, whole: Cluster) -> None:
    """The next deploy finishes it; and it can be deleted as it is."""
    shutil.copytree(cluster.directory, copy)
    before = cluster.names()
    assert cluster.deploy(make()) == 0
    assert cluster.names() == whole.names(), f"run again with {before}"
    other = Cluster(copy)
    assert deleted(other) == 0
    assert other.names() == set(), f"deleted with {before}"


def test_a_deletion_that_breaks_off_is_finished_by_the_next(tmp_path: Path) -> None:
    cluster = empty(tmp_path / "cluster")
    assert cluster.deploy(separate()) == 0
    cluster.play("delete service", "Error from server (Timeout): the server was unable", times=1)
    with pytest.raises(Exception, match="Timeout"):
        deleted(cluster)
    assert cluster.names()
    assert deleted(cluster) == 0
    assert owned_objects(cluster.kubectl(), NAMESPACE)[0] == []


@pytest.mark.parametrize("make", [separate, in_set])
def test_a_port_of_the_nodes_that_another_deployment_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any
) -> None:
    cluster = empty(tmp_path / "cluster")
    assert cluster.deploy(make()) == 0
    assert cluster.deploy(make()) == 0, "its own ports are no obstacle"
    other = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "door", "namespace": "elsewhere"},
        "spec": {"ports": [{"port": 80, "nodePort": 31015}]},
    }
    cluster.add(other, "elsewhere")
    before = cluster.names()
    assert cluster.deploy(make()) == 1
    told = capsys.readouterr().err
    assert "port 31015 of the nodes belongs to the Service door of the namespace elsewhere" in told
    assert "kubernetes_config.coordinator_node_port" in told
    assert cluster.names() == before
    cluster.play(
        "get services", 'Error from server (Forbidden): services is forbidden: User "eve" cannot list', times=1
    )
    assert cluster.deploy(make()) == 0, "who may not look is not held up"
