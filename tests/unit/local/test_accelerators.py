"""Accelerators of one machine, shared out among its nodes."""

from __future__ import annotations

from pymotor.config import UserConfig
from pymotor.fleet import Role
from pymotor.local.accelerators import Accelerators


def config(hardware: str) -> UserConfig:
    return UserConfig.model_validate(
        {
            "motor_deploy_config": {"p_instances_num": 1, "d_instances_num": 1, "hardware_type": hardware},
            "motor_engine_prefill_config": {"engine_type": "vllm", "engine_config": {"tensor_parallel_size": 2}},
            "motor_engine_decode_config": {"engine_type": "vllm", "engine_config": {}},
        }
    )


def test_each_node_has_its_own_and_those_of_ended_nodes_are_given_again() -> None:
    accelerators = Accelerators(config("gpu"))
    first = accelerators.take(Role.PREFILL)
    assert (first, accelerators.take(Role.DECODE), accelerators.take(Role.DECODE)) == ((0, 1), (2,), (3,))
    accelerators.give_back((2,))
    assert accelerators.take(Role.PREFILL) == (4, 5)
    assert accelerators.take(Role.DECODE) == (2,)
    accelerators.give_back(first)
    assert accelerators.take(Role.PREFILL) == first


def test_hardware_without_accelerators_has_none() -> None:
    assert Accelerators(config("cpu")).take(Role.PREFILL) == ()
