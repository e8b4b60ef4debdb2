"""`--update_instance_num` and `--update_config`: what may change, what is drained, what is left alone."""

from __future__ import annotations

import json

import pytest
from cluster_played import Cluster
from objects_made import config, config_map, in_set, separate


def with_instances(cluster: Cluster, names: dict[str, str], **settings: object) -> None:
    """The Controller knows these instances by their pods."""
    cluster.set(instances=[{"name": name, "nodes": [pod]} for name, pod in names.items()], **settings)


def drained(cluster: Cluster) -> list[str]:
    return [call[call.index("drain") + 1] for call in cluster.calls("exec") if "drain" in call]


@pytest.mark.parametrize("make", [separate, in_set])
def test_out_and_in(cluster: Cluster, make: type) -> None:
    assert cluster.deploy(make(decode=2)) == 0
    pods = sorted(name for name in cluster.objects("Pod") if "d" in name and "controller" not in name)
    with_instances(cluster, {f"decode-{number}": pod for number, pod in enumerate(pods)})
    assert cluster.deploy(make(decode=4), update_instance_num=True) == 0
    assert "changed: $.motor_deploy_config.d_instances_num" in cluster.said
    assert len([name for name in cluster.objects("Pod") if "controller" not in name]) == 4
    assert drained(cluster) == []
    assert cluster.deploy(make(decode=1), update_instance_num=True) == 0
    assert drained(cluster) == ["decode-1"]
    assert [name for name in cluster.objects("Pod") if "controller" not in name] == pods[:1]
    assert json.loads(cluster.objects("ConfigMap")["motor-config"]["data"]["user_config.json"]) == json.loads(
        make(decode=1)[-1]["data"]["user_config.json"]
    )
    assert cluster.said[-1] == "...... all deploy end."


def test_the_drain_is_asked_for_at_the_controllers_address(cluster: Cluster) -> None:
    assert cluster.deploy(separate(decode=2)) == 0
    with_instances(cluster, {"decode-1": "vllm-d1-0"})
    assert cluster.deploy(separate(decode=1), update_instance_num=True, drain_seconds=5.0) == 0
    call = next(call for call in cluster.calls("exec") if "drain" in call)
    assert call[:5] == ["exec", "-n", "mindie-motor", "mindie-motor-controller-0", "-c"]
    assert call[call.index("--controller") + 1] == "http://10.0.0.1:1026"
    assert call[call.index("--limit") + 1] == "5"


def test_running_workloads_are_left_alone(cluster: Cluster) -> None:
    assert cluster.deploy(separate(decode=1)) == 0
    before = cluster.objects("Pod")["vllm-d0-0"]
    assert cluster.deploy(separate(decode=2, image="pymotor:2"), update_instance_num=True) == 0
    assert cluster.objects("Pod")["vllm-d0-0"] == before


def test_a_drain_that_fails_removes_nothing(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(separate(decode=3)) == 0
    with_instances(cluster, {"decode-1": "vllm-d1-0", "decode-2": "vllm-d2-0"})
    cluster.play("instances drain decode-2", "pymotor instances: decode-2 is not done after 630 s: draining")
    assert cluster.deploy(separate(decode=1), update_instance_num=True) == 1
    assert "decode-2 cannot be drained" in capsys.readouterr().err
    assert {"vllm-d1", "vllm-d2"} <= set(cluster.objects("Deployment"))
    undrained = [call[call.index("undrain") + 1] for call in cluster.calls("exec") if "undrain" in call]
    assert undrained == ["decode-1", "decode-2"]
    assert cluster.deploy(separate(decode=1), update_instance_num=True) == 0
    assert set(cluster.objects("Deployment")) == {"mindie-motor-controller", "vllm-d0"}


def test_scaling_that_broke_off_is_finished_by_the_next(cluster: Cluster) -> None:
    assert cluster.deploy(separate(decode=1)) == 0
    cluster.play(
        "-f - -n mindie-motor deployment/vllm-d2", "Error from server (Timeout): the server was unable", times=2
    )
    assert cluster.deploy(separate(decode=3), update_instance_num=True) == 1
    assert cluster.deploy(separate(decode=3), update_instance_num=True) == 0
    assert len(cluster.objects("Deployment")) == 4


def test_anything_else_that_changed_is_named(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(separate(decode=1)) == 0
    before = cluster.names()
    other = separate(decode=2, motor_coordinator_config={"exception_config": {"max_retry": 3}})
    assert cluster.deploy(other, update_instance_num=True) == 1
    error = capsys.readouterr().err
    assert "$.motor_coordinator_config.exception_config.max_retry" in error
    assert "d_instances_num" not in error
    assert cluster.names() == before


@pytest.mark.parametrize("flag", ["update_instance_num", "update_config"])
def test_nothing_is_deployed_there(cluster: Cluster, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert cluster.deploy(separate(), **{flag: True}) == 1
    assert "nothing is deployed there" in capsys.readouterr().err
    assert cluster.names() == set()


def test_a_set_whose_templates_changed_is_not_scaled(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.deploy(in_set(decode=2)) == 0
    assert cluster.deploy(in_set(decode=1, image="pymotor:2"), update_instance_num=True) == 1
    assert "--recreate" in capsys.readouterr().err
    assert drained(cluster) == []
    assert "vllm-0-decode-1" in cluster.objects("StatefulSet")


def test_the_configuration_is_updated_and_nothing_else(cluster: Cluster) -> None:
    assert cluster.deploy(separate()) == 0
    deployments = cluster.objects("Deployment")
    new = {"motor_coordinator_config": {"exception_config": {"max_retry": 3}}}
    assert cluster.deploy(separate(image="pymotor:2", **new), update_config=True) == 0
    data = cluster.objects("ConfigMap")["motor-config"]["data"]
    assert json.loads(data["user_config.json"]) == config(**new)
    assert data["boot.sh"] == "#!/bin/bash\n"
    assert cluster.objects("Deployment") == deployments
    assert cluster.deploy(separate(**new), update_config=True) == 0
    assert "nothing to change: the cluster has this configuration" in cluster.said


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (config(decode=3), "use --update_instance_num"),
        (config(mode="infer_service_set"), "$.motor_deploy_config.deploy_mode cannot be changed"),
        (
            config(motor_coordinator_config={"api_config": {"coordinator_api_infer_port": 1}}),
            "coordinator_api_infer_port",
        ),
    ],
)
def test_what_is_not_live_is_refused(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], new: dict[str, object], told: str
) -> None:
    assert cluster.deploy(separate()) == 0
    before = cluster.objects("ConfigMap")
    assert cluster.deploy([config_map(new)], update_config=True) == 1
    assert told in capsys.readouterr().err
    assert cluster.objects("ConfigMap") == before
