"""The command line, then the environment of a pod, then the configuration."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from pymotor.config import UserConfig
from pymotor.control_plane import ClusterToken
from pymotor.fleet import Role
from pymotor.node_manager.command import _config_paths, configure
from pymotor.node_manager.settings import NodeSettings, SettingsError, settings_from

USER = UserConfig.model_validate(
    {
        "motor_deploy_config": {
            "p_instances_num": 1,
            "d_instances_num": 1,
            "single_d_instance_pod_num": 2,
            "d_pod_npu_num": 4,
            "job_id": "jobs",
            "hardware_type": "800I_A2",
        },
        "motor_engine_decode_config": {
            "motor_nodemanger_config": {
                "api_config": {"node_manager_port": 1030},
                "basic_config": {"heartbeat_interval_seconds": 5},
            }
        },
    }
)
TOKEN = "0123456789abcdef0123"
POD = {
    "ROLE": "decode",
    "JOB_NAME": "jobs-d0",
    "POD_IP": "10.0.0.7",
    "POD_NAME": "jobs-d0-1",
    "HOSTNAME": "something",
    "NODE_NAME": "machine-3",
    "CONTROLLER_SERVICE": "controller",
    "PYMOTOR_CLUSTER_TOKEN": TOKEN,
}


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args(words)


def settings(*words: str, **variables: str) -> NodeSettings:
    return settings_from(arguments(*words), USER, {**POD, **variables})


def test_a_pod_needs_no_option() -> None:
    found = settings()
    assert (found.node, found.job, found.role, found.address) == ("jobs-d0-1", "jobs-d0", Role.DECODE, "10.0.0.7")
    assert (found.machine, found.nodes_per_instance, found.devices) == ("machine-3", 2, (0, 1, 2, 3))
    assert found.controllers == ("http://controller:1026",)
    assert isinstance(found.token, ClusterToken)
    assert TOKEN not in repr(found)
    assert (found.port, found.heartbeat_seconds, found.grace) == (1030, 5.0, 30.0)
    assert (found.preferred_number, found.ranktable, found.ranktable_path) == (None, "", None)


def test_the_command_line_wins() -> None:
    found = settings(
        *("--role", "decode", "--job", "j", "--node", "n", "--address", "::1", "--machine", "m", "--number", "4"),
        *("--controller", "http://127.0.0.1:1,http://localhost:2/", "--port", "none", "--devices", "6,7"),
        PYMOTOR_CLUSTER_TOKEN="",
    )
    assert (found.node, found.job, found.address, found.machine) == ("n", "j", "::1", "m")
    assert (found.preferred_number, found.devices, found.port) == (4, (6, 7), None)
    assert found.controllers == ("http://127.0.0.1:1", "http://localhost:2")
    assert found.token is None, "all Controllers are on this machine"


def test_device_tables_come_by_files(tmp_path: Path) -> None:
    own = tmp_path / "hccl.json"
    assert settings(HCCL_PATH=str(own)).ranktable == "", "some devices have none"
    own.write_text('{"version": "1.0"}')
    found = settings(HCCL_PATH=str(own), RANKTABLE_PATH="/run/ranktable.json")
    assert (found.ranktable, found.ranktable_path) == ('{"version": "1.0"}', Path("/run/ranktable.json"))


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ((), {"ROLE": ""}, "nobody says what this node is for"),
        ((), {"ROLE": "kv_pool"}, "'kv_pool' is no role"),
        ((), {"ROLE": "union"}, "no motor_engine_union_config"),
        ((), {"CONTROLLER_SERVICE": ""}, "nobody says where the Controller is"),
        (("--controller", "controller:1026"), {}, "no URL of a Controller"),
        ((), {"PYMOTOR_CLUSTER_TOKEN": ""}, "set PYMOTOR_CLUSTER_TOKEN"),
    ],
)
def test_what_is_missing_is_said(words: tuple[str, ...], variables: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(*words, **variables)


def test_where_the_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text(json.dumps({}))
    user, env = tmp_path / "user_config.json", tmp_path / "env.json"
    assert _config_paths(arguments("--config_dir", str(tmp_path)), {}) == (user, env)
    assert _config_paths(arguments(), {"CONFIG_PATH": str(tmp_path)}) == (user, env)
    assert _config_paths(arguments(), {"USER_CONFIG_PATH": "/a.json", "CONFIG_PATH": "/b"}) == (Path("/a.json"), None)
    stated = _config_paths(arguments("--user_config_path", "/a.json", "--env_config_path", "/e.json"), {})
    assert stated == (Path("/a.json"), Path("/e.json"))
    with pytest.raises(SettingsError, match="nobody says where"):
        _config_paths(arguments(), {})
