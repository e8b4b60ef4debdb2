"""Command lines and fleet entries of planned SGLang instances."""

from __future__ import annotations

from typing import Any

import pytest
from engine_configs import FixedHost, env_config, user_config

from pymotor.engines import PlanError, plan_instance
from pymotor.fleet import KVDialect, Role, can_hand_over_kv


def separate() -> dict[str, Any]:
    options = {
        "model-path": "/models/qwen3",
        "served-model-name": "qwen3",
        "dp-size": 1,
        "tp-size": 2,
        "trust-remote-code": True,
        "disaggregation_bootstrap_port": 9998,
        "enable_multi_endpoints": False,
    }
    section = {"engine_type": "sglang", "engine_config": options}
    return {
        "motor_deploy_config": {"p_instances_num": 1, "d_instances_num": 1, "hardware_type": "gpu"},
        "motor_engine_prefill_config": section,
        "motor_engine_decode_config": section,
        "motor_engine_encode_config": section,
    }


def test_prefill_and_decode_are_started_with_sglangs_names() -> None:
    host = FixedHost(python="/opt/sglang/bin/python", engine_version="0.5.2")
    user = user_config(separate())
    prefill = plan_instance(user, env_config(), Role.PREFILL, 0, host)
    decode = plan_instance(user, env_config(), Role.DECODE, 0, host)
    assert prefill.servers[0].argv == (
        "/opt/sglang/bin/python",
        "-m",
        "sglang.launch_server",
        "--model-path",
        "/models/qwen3",
        "--served-model-name",
        "qwen3",
        "--dp-size",
        "1",
        "--tp-size",
        "2",
        "--trust-remote-code",
        "--disaggregation-bootstrap-port",
        "9998",
        "--disaggregation-mode",
        "prefill",
        "--host",
        "127.0.0.1",
        "--port",
        "10000",
    )
    words = decode.servers[0].argv
    assert words[words.index("--disaggregation-mode") + 1] == "decode"
    assert prefill.servers[0].env == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert prefill.instance.kv is not None
    assert prefill.instance.kv.dialect is KVDialect.PAIRED
    assert prefill.instance.bootstrap_of("prefill-0/0") == "http://127.0.0.1:9998"
    assert decode.instance.bootstrap_of("decode-0/0") == ""
    assert can_hand_over_kv(prefill.instance, decode.instance)


def test_sglang_does_not_encode() -> None:
    with pytest.raises(PlanError, match="do not encode"):
        plan_instance(user_config(separate()), env_config(), Role.ENCODE, 0, FixedHost())
