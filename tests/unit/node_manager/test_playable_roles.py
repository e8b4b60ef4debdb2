"""Which roles a node says it could play."""

from __future__ import annotations

from typing import Any

import pytest

from pymotor.config import UserConfig
from pymotor.fleet import Role
from pymotor.node_manager.playable import playable_roles

BOTH = (Role.PREFILL, Role.DECODE)


def user(prefill: dict[str, Any], decode: dict[str, Any], *, switch: bool = True, **deploy: Any) -> UserConfig:
    """`prefill`, `decode`: engine_config, and `engine_type`."""

    def section(options: dict[str, Any]) -> dict[str, Any]:
        engine = options.get("engine_type", "vllm")
        return {"engine_type": engine, "engine_config": {k: v for k, v in options.items() if k != "engine_type"}}

    return UserConfig.model_validate(
        {
            "motor_deploy_config": {"hardware_type": "800I_A2", "p_instances_num": 1, "d_instances_num": 1, **deploy},
            "motor_controller_config": {"fault_tolerance_config": {"enable_role_switch": switch}},
            "motor_engine_prefill_config": section(prefill),
            "motor_engine_decode_config": section(decode),
        }
    )


@pytest.mark.parametrize(
    ("config", "devices", "roles"),
    [
        pytest.param(user({}, {}), None, BOTH, id="alike"),
        pytest.param(user({}, {}, switch=False), None, (), id="switched off"),
        pytest.param(user({}, {"engine_type": "sglang"}), None, (), id="another engine"),
        pytest.param(user({}, {"tensor_parallel_size": "many"}), None, (), id="sizes that are none"),
        pytest.param(user({}, {"tensor_parallel_size": 4}), (0, 1, 2, 3), BOTH, id="its devices are enough"),
        pytest.param(user({}, {"tensor_parallel_size": 8}), (0, 1, 2, 3), (), id="too few devices"),
        pytest.param(user({}, {"tensor_parallel_size": 8}), None, BOTH, id="as many devices as are wanted"),
        pytest.param(
            user({}, {"tensor_parallel_size": 8}, hardware_type="cpu"), (0,), BOTH, id="nobody counts devices"
        ),
        pytest.param(user({}, {}, single_d_instance_pod_num=2), None, (), id="more nodes for an instance"),
        pytest.param(
            user({}, {"tensor_parallel_size": 8}, single_d_instance_pod_num=2, single_p_instance_pod_num=2),
            (0, 1, 2, 3),
            BOTH,
            id="two nodes have them together",
        ),
    ],
)
def test_roles_by_configuration(config: UserConfig, devices: tuple[int, ...] | None, roles: tuple[Role, ...]) -> None:
    assert playable_roles(config, Role.PREFILL, devices) == roles
