"""The configurations of the guides, word for word, and what PyMotor reads in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from configs import SEEDS, at, load

from pymotor.config import load_config

EXAMPLES = Path(__file__).parents[3] / "examples" / "infer_engines"


def hybrid(*fragments: str) -> str:
    """A whole file of the guide's fragments; of two for one key only one may be given."""
    texts = [(SEEDS / f"{fragment}.txt").read_text(encoding="utf-8") for fragment in fragments]
    return "{" + ",\n".join(['"version": "v2.0"', *texts]) + "}"


def test_encode_prefill_decode_guide(tmp_path):
    config = load_config(SEEDS / "epd_user_config.json", None)

    assert config.ok
    assert config.user is not None
    assert at(config, "$.motor_deploy_config.image_name").severity == "warning"
    assert "devices lie idle" in at(config, "$.motor_deploy_config.e_pod_npu_num").message
    assert len(config.problems) == 2
    assert [config.user.instance_count(role) for role in ("encode", "prefill", "decode", "union")] == [2, 1, 1, 0]
    assert [config.user.devices_per_pod(role) for role in ("encode", "prefill", "decode", "union")] == [2, 2, 2, 0]
    encode = config.user.engine_section("encode")
    assert encode is not None
    assert encode.engine_type == "vllm"
    assert encode.options["no_enable_prefix_caching"] is True
    assert encode.options["ec_transfer_config"]["ec_connector"] == "ECExampleConnector"
    prefill = config.user.engine_section("prefill")
    assert prefill is not None
    assert prefill.options["kv_transfer_config"]["kv_port"] == "30001"
    assert prefill.options["kv_transfer_config"]["kv_parallel_size"] == 1
    assert config.user.engine_section("union") is None


def test_hybrid_guide(tmp_path):
    text = hybrid("hybrid_deploy_fragment", "hybrid_engine_fragment")
    config = load(tmp_path, text, (SEEDS / "hybrid_env.json").read_text(encoding="utf-8"))

    assert config.ok
    assert config.user is not None
    assert config.user.instance_count("union") == 1
    assert config.user.pods_per_instance("union") == 1
    section = config.user.engine_section("union")
    assert section is not None
    assert section.options["enforce_eager"] is True
    assert config.env.variables("union") == {
        "CANN_INSTALL_PATH": "/usr/local/Ascend",
        "MOTOR_LOG_ROOT_PATH": "/root/ascend/log",
        "HCCL_BUFFSIZE": "200",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "HCCL_OP_EXPANSION_MODE": "AIV",
        "OMP_PROC_BIND": "false",
        "OMP_NUM_THREADS": "100",
        "ASCEND_BUFFER_POOL": "0:0",
    }


def test_hybrid_guide_with_affinity(tmp_path):
    config = load(tmp_path, hybrid("hybrid_deploy_fragment", "hybrid_kv_affinity_fragment", "hybrid_engine_fragment"))

    assert config.ok
    assert config.user is not None
    assert config.user.motor_coordinator_config.scheduler_config.scheduler_type == "kv_cache_affinity"
    assert "13333" in at(config, "$.kv_conductor_config").suggestion
    assert at(config, "$.motor_engine_union_config.engine_config.kv-events-config").severity == "warning"


@pytest.mark.parametrize("example", ["vllm", "vllm/epd", "vllm/pd_hybrid", "sim/epd", "sim/pd_hybrid"])
def test_examples_are_right(example):
    directory = EXAMPLES / example
    config = load_config(directory / "user_config.json", directory / "env.json")

    assert config.ok, [str(problem) for problem in config.problems]
    if example.startswith("sim"):
        assert config.problems == ()


def test_the_example_is_the_guide():
    ours = json.loads((EXAMPLES / "vllm/epd/user_config.json").read_text(encoding="utf-8"))
    assert ours == json.loads((SEEDS / "epd_user_config.json").read_text(encoding="utf-8"))


def test_the_simulated_fleet_answers_the_guides_requests():
    config = load_config(EXAMPLES / "sim/epd/user_config.json", None)
    assert config.user is not None
    for role in ("encode", "prefill", "decode"):
        section = config.user.engine_section(role)
        assert section is not None
        assert "qwenvl" in section.options["served_model_name"]
        assert config.user.instance_count(role) == 2
