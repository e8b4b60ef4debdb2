"""Broken configurations: each mistake is named with its place, what may stand there and what was meant."""

from __future__ import annotations

import pytest
from configs import at, errors, load, separate

from changed_config import with_changes

DEPLOY = "motor_deploy_config"
COORDINATOR = "motor_coordinator_config"
PREFILL = "motor_engine_prefill_config"
UNION = "motor_engine_union_config"
DECODE = "motor_engine_decode_config"
ASCEND = {f"{DEPLOY}.hardware_type": "800I_A2", f"{DEPLOY}.p_pod_npu_num": 1, f"{DEPLOY}.d_pod_npu_num": 1}

ERRORS = {
    "an unknown key that looks like a slip": (
        {f"{DEPLOY}.p_instance_num": 1},
        "$.motor_deploy_config.p_instance_num",
        ["knows no such key", "did you mean p_instances_num?"],
    ),
    "an unknown key with hyphens": (
        {f"{DEPLOY}.image-name": "x"},
        "$.motor_deploy_config.image-name",
        ["did you mean image_name?"],
    ),
    "a key of another section": (
        {"p_pod_npu_num": 2},
        "$.p_pod_npu_num",
        ["belongs in $.motor_deploy_config"],
    ),
    "an engine option outside the engine": (
        {"tensor_parallel_size": 2},
        "$.tensor_parallel_size",
        ["belong in engine_config"],
    ),
    "an engine option beside engine_config": (
        {f"{PREFILL}.mm_processor_cache_gb": 4},
        "$.motor_engine_prefill_config.mm_processor_cache_gb",
        ["inside engine_config"],
    ),
    "a section spelt right": (
        {"motor_nodemanager_config": {}},
        "$.motor_nodemanager_config",
        ["knows no such key", "did you mean motor_"],
    ),
    "a section of the other file": (
        {"motor_common_env": {"A": "1"}},
        "$.motor_common_env",
        ["belongs in env.json"],
    ),
    "a number in quotes": (
        {f"{DEPLOY}.p_instances_num": "2"},
        "$.motor_deploy_config.p_instances_num",
        ['"2"', "an integer from 1 to 16", "without quotes"],
    ),
    "a number with a point": (
        {f"{DEPLOY}.p_instances_num": 2.0},
        "$.motor_deploy_config.p_instances_num",
        ["an integer from 1 to 16", "write 2"],
    ),
    "true for a number": (
        {f"{DEPLOY}.d_instances_num": True},
        "$.motor_deploy_config.d_instances_num",
        ["found true", "an integer from 1 to 16"],
    ),
    "too many instances": (
        {f"{DEPLOY}.p_instances_num": 17},
        "$.motor_deploy_config.p_instances_num",
        ["too large", "17", "an integer from 1 to 16"],
    ),
    "no prefill instance": (
        {f"{DEPLOY}.p_instances_num": 0},
        "$.motor_deploy_config.p_instances_num",
        ["too small", "an integer from 1 to 16"],
    ),
    "fewer than no encode instances": (
        {f"{DEPLOY}.e_instances_num": -1},
        "$.motor_deploy_config.e_instances_num",
        ["too small", "an integer from 0 to 16"],
    ),
    "an instance of no pods": (
        {f"{DEPLOY}.single_p_instance_pod_num": 0},
        "$.motor_deploy_config.single_p_instance_pod_num",
        ["too small", "1 or more"],
    ),
    "a header with a space": (
        {f"{COORDINATOR}.scheduler_config.session_header": "a b"},
        "$.motor_coordinator_config.scheduler_config.session_header",
        ["not written as it must be", "a b", "the name of a header: letters, digits"],
    ),
    "no header": (
        {f"{COORDINATOR}.scheduler_config.session_header": ""},
        "$.motor_coordinator_config.scheduler_config.session_header",
        ["not written as it must be", "the name of a header"],
    ),
    "more credit than all of it": (
        {f"{COORDINATOR}.scheduler_config.kv_affinity_overlap_credit": 5},
        "$.motor_coordinator_config.scheduler_config.kv_affinity_overlap_credit",
        ["too large", "5", "a number from 0 to 1"],
    ),
    "patience of years": (
        {f"{COORDINATOR}.scheduler_config.kv_affinity_patience": 1e9},
        "$.motor_coordinator_config.scheduler_config.kv_affinity_patience",
        ["too large", "a number greater than 0, at most 60"],
    ),
    "decode without prefill": (
        {f"{DEPLOY}.p_instances_num": ...},
        "$.motor_deploy_config.p_instances_num",
        ["missing although d_instances_num", "1 to 16"],
    ),
    "no hardware": (
        {f"{DEPLOY}.hardware_type": ...},
        "$.motor_deploy_config.hardware_type",
        ["missing", "800I_A2", "cpu"],
    ),
    "hardware with a hyphen": (
        {f"{DEPLOY}.hardware_type": "800I-A2"},
        "$.motor_deploy_config.hardware_type",
        ["800I-A2", "did you mean 800I_A2?"],
    ),
    "an unknown way to deploy": (
        {f"{DEPLOY}.deploy_mode": "infer_services_set"},
        "$.motor_deploy_config.deploy_mode",
        ["did you mean infer_service_set?", "multi_deployment"],
    ),
    "a job that is no DNS label": (
        {f"{DEPLOY}.job_id": "Mindie_Motor; rm -rf /"},
        "$.motor_deploy_config.job_id",
        ["Mindie_Motor", "DNS label"],
    ),
    "a section that is a list": (
        {COORDINATOR: []},
        "$.motor_coordinator_config",
        ["expected an object, found a list"],
    ),
    "null for a section": (
        {"motor_controller_config": None},
        "$.motor_controller_config",
        ["found null", "remove the key"],
    ),
    "an engine that PyMotor does not know": (
        {f"{PREFILL}.engine_type": "vlm"},
        "$.motor_engine_prefill_config.engine_type",
        ["did you mean vllm?", "one of vllm, sglang, sim"],
    ),
    "engine options that are no object": (
        {f"{PREFILL}.engine_config": "--model m"},
        "$.motor_engine_prefill_config.engine_config",
        ["expected an object, found a string"],
    ),
    "a dialect that nobody speaks": (
        {f"{PREFILL}.kv_dialect": "push"},
        "$.motor_engine_prefill_config.kv_dialect",
        ["one of pull, callback, paired, store"],
    ),
    "one option in two spellings": (
        {f"{PREFILL}.engine_config": {"model": "m", "max-model-len": 1, "max_model_len": 2}},
        "$.motor_engine_prefill_config.engine_config.max_model_len",
        ["the same option as max-model-len, with another value"],
    ),
    "a parallel size of none": (
        {f"{PREFILL}.engine_config.tensor-parallel-size": 0},
        "$.motor_engine_prefill_config.engine_config.tensor-parallel-size",
        ["not a parallel size", "an integer, 1 or more"],
    ),
    "too few devices": (
        {**ASCEND, f"{PREFILL}.engine_config.tensor_parallel_size": 8, f"{DEPLOY}.single_p_instance_pod_num": 2},
        "$.motor_deploy_config.p_pod_npu_num",
        ["too few devices", "needs 8 devices", "2 pods have 2 devices", "4 or more", "write 4"],
    ),
    "no devices stated": (
        {**ASCEND, f"{DEPLOY}.d_pod_npu_num": ..., f"{DECODE}.engine_config.tensor_parallel_size": 2},
        "$.motor_deploy_config.d_pod_npu_num",
        ["missing", "needs 2 devices", "write 2"],
    ),
    "instances without an engine section": (
        {PREFILL: ...},
        "$.motor_engine_prefill_config",
        ["missing, and p_instances_num asks for 1"],
    ),
    "an engine section without instances": (
        {UNION: {"engine_type": "sim", "engine_config": {"model": "m"}}},
        "$.motor_deploy_config.hybrid_instances_num",
        ["missing although motor_engine_union_config is given", "1 to 16"],
    ),
    "hybrid pods beside separate instances": (
        {f"{DEPLOY}.hybrid_pod_npu_num": 2},
        "$.motor_deploy_config.hybrid_instances_num",
        ["missing although hybrid_pod_npu_num is given", "remove what belongs to union"],
    ),
    "union instances without a section": (
        {f"{DEPLOY}.hybrid_instances_num": 1},
        "$.motor_engine_union_config",
        ["missing, and hybrid_instances_num asks for 1"],
    ),
    "an order of stages without its instances": (
        {f"{COORDINATOR}.scheduler_config.deploy_mode": "single_node"},
        "$.motor_coordinator_config.scheduler_config.deploy_mode",
        ["union instances, and none is asked for"],
    ),
    "an unknown scheduler": (
        {f"{COORDINATOR}.scheduler_config.scheduler_type": "round-robin"},
        "$.motor_coordinator_config.scheduler_config.scheduler_type",
        ["did you mean round_robin?", "kv_cache_affinity"],
    ),
    "a port that is none": (
        {f"{COORDINATOR}.api_config.coordinator_api_infer_port": 70000},
        "$.motor_coordinator_config.api_config.coordinator_api_infer_port",
        ["too large", "an integer from 1 to 65535"],
    ),
    "one port twice in a pod": (
        {f"{COORDINATOR}.api_config.coordinator_api_infer_port": 1026},
        "$.motor_coordinator_config.api_config.coordinator_api_mgmt_port",
        ["port 1026", "coordinator_api_infer_port"],
    ),
    "the KV Conductor in one container on the Coordinator's port": (
        {f"{DEPLOY}.deploy_mode": "single_container", "kv_conductor_config": {"http_server_port": 1025}},
        "$.kv_conductor_config.http_server_port",
        ["port 1025", "coordinator_api_infer_port", "choose another port"],
    ),
    "an engine in one container on the KV Conductor's port": (
        {
            f"{DEPLOY}.deploy_mode": "single_container",
            "kv_conductor_config": {"http_server_port": 5557},
            f"{PREFILL}.engine_config.kv-events-config": {"publisher": "zmq", "endpoint": "tcp://*:5557"},
        },
        "$.motor_engine_prefill_config.engine_config.kv-events-config.endpoint",
        ["port 5557", "kv_conductor_config.http_server_port"],
    ),
    "a range of ports over another": (
        {f"{PREFILL}.engine_config.data_parallel_size": 3, f"{PREFILL}.engine_config.data_parallel_rpc_port": 10005},
        "$.motor_engine_prefill_config.engine_config.data_parallel_rpc_port",
        ["ports 10000 to 10005", "choose another port"],
    ),
    "more worker ports than there are": (
        {
            f"{COORDINATOR}.inference_workers_config.worker_metaserver_base_port": 65534,
            f"{COORDINATOR}.inference_workers_config.num_workers": 4,
        },
        "$.motor_coordinator_config.inference_workers_config.worker_metaserver_base_port",
        ["needs 4 ports", "at most 65532"],
    ),
    "everything in one container on one port": (
        {
            f"{DEPLOY}.deploy_mode": "single_container",
            "motor_controller_config": {"api_config": {"observability_api_port": 2027}},
        },
        "$.motor_controller_config.api_config.controller_api_port",
        ["port 1026", "choose another port"],
    ),
    "keys asked for that nobody has": (
        {f"{COORDINATOR}.api_key_config.enable_api_key": True},
        "$.motor_coordinator_config.api_key_config.valid_keys",
        ["no request could pass", "hashes"],
    ),
    "a key asked for that is no hash": (
        {f"{COORDINATOR}.api_key_config": {"enable_api_key": True, "valid_keys": ["plain"]}},
        "$.motor_coordinator_config.api_key_config.valid_keys[0]",
        ["looks like a plain key", "salt:iterations:hash"],
    ),
    "a key that is no string": (
        {f"{COORDINATOR}.api_key_config.valid_keys": ["a:1:b", 7]},
        "$.motor_coordinator_config.api_key_config.valid_keys[1]",
        ["expected a string, found an integer"],
    ),
    "an unknown hash": (
        {f"{COORDINATOR}.api_key_config.encryption_algorithm": "MD5"},
        "$.motor_coordinator_config.api_key_config.encryption_algorithm",
        ["PBKDF2_SHA256"],
    ),
    "cookies from anywhere": (
        {f"{COORDINATOR}.http_config.cors": {"allow_origins": ["*"], "allow_credentials": True}},
        "$.motor_coordinator_config.http_config.cors.allow_origins",
        ["name the origins"],
    ),
    "on and off as a boolean": (
        {f"{COORDINATOR}.http_config.server_timing": True},
        "$.motor_coordinator_config.http_config.server_timing",
        ["one of on, off"],
    ),
    "a time of none": (
        {f"{COORDINATOR}.exception_config.infer_timeout": 0},
        "$.motor_coordinator_config.exception_config.infer_timeout",
        ["too small", "greater than 0"],
    ),
    "a lock without its slash": (
        {f"{COORDINATOR}.standby_config.master_lock_key": "lock"},
        "$.motor_coordinator_config.standby_config.master_lock_key",
        ["begins with /"],
    ),
    "a KV pool that never evicts": (
        {"kv_cache_pool_config": {"protocol": "ascend", "eviction_ratio": 0.1}},
        "$.kv_cache_pool_config.eviction_high_watermark_ratio",
        ["missing", "from 0 to 1"],
    ),
    "a provider without its rules": (
        {f"{COORDINATOR}.rate_limit_config": {"enable_rate_limit": True, "provider": "olc"}},
        "$.motor_coordinator_config.rate_limit_config.olc_config_path",
        ["empty while provider is olc"],
    ),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_error(tmp_path, mistake):
    changes, path, words = ERRORS[mistake]
    config = load(tmp_path, with_changes(separate(), changes))

    assert not config.ok
    problem = at(config, path)
    assert problem.severity == "error"
    text = str(problem)
    assert path in text
    assert str(tmp_path / "user_config.json") in text
    for word in words:
        assert word in text


def test_the_base_has_no_mistake(tmp_path):
    assert load(tmp_path, separate()).problems == ()


def test_all_mistakes_at_once(tmp_path):
    """Mistakes of different sections, kinds and stages of checking stand side by side."""
    together = [
        "an unknown key that looks like a slip",
        "hardware with a hyphen",
        "a job that is no DNS label",
        "an engine that PyMotor does not know",
        "union instances without a section",
        "one port twice in a pod",
        "keys asked for that nobody has",
        "a time of none",
        "a lock without its slash",
    ]
    changes: dict[str, object] = {}
    for mistake in together:
        changes |= ERRORS[mistake][0]
    config = load(tmp_path, with_changes(separate(), changes), {"motor_common_env": {"A B": "1", "C": None}})

    places = {problem.path for problem in errors(config)}
    assert places == {ERRORS[mistake][1] for mistake in together} | {
        '$.motor_common_env["A B"]',
        "$.motor_common_env.C",
    }


def test_one_mistake_makes_no_others(tmp_path):
    """A wrong number of instances is not followed by complaints that rest on it."""
    config = load(tmp_path, with_changes(separate(), {f"{DEPLOY}.p_instances_num": 99}))
    assert [problem.path for problem in config.problems] == ["$.motor_deploy_config.p_instances_num"]


def test_every_item_of_a_list_is_told(tmp_path):
    changes = {f"{COORDINATOR}.api_key_config.skip_paths": ["/", 1, "/docs", None]}
    config = load(tmp_path, with_changes(separate(), changes))
    assert [problem.path.rpartition(".")[2] for problem in errors(config)] == ["skip_paths[1]", "skip_paths[3]"]


def test_what_is_right_is_kept_beside_mistakes(tmp_path):
    config = load(tmp_path, with_changes(separate(), {f"{DEPLOY}.d_instances_num": "2", f"{DEPLOY}.job_id": "x"}))
    assert config.user is not None
    assert config.user.motor_deploy_config.job_id == "x"
    assert config.user.instance_count("decode") == 0


def test_secrets_are_not_shown(tmp_path):
    secret = "sk-very-secret"
    changes = {
        f"{COORDINATOR}.api_key_config": {"enable_api_key": True, "valid_keys": [secret]},
        f"{PREFILL}.api_key": secret,
    }
    config = load(
        tmp_path, with_changes(separate(), changes), {"motor_common_env": {"HF_TOKEN": [secret]}, "token": secret}
    )

    assert len(config.problems) == 4
    for problem in config.problems:
        assert secret not in str(problem)
        assert secret not in str(problem.as_json())


class TestLenient:
    """A running part that meets a newer file."""

    def test_unknown_keys_are_warnings(self, tmp_path):
        changes = {f"{COORDINATOR}.quantum_config": {"on": True}, "motor_common_env": {}}
        config = load(tmp_path, with_changes(separate(), changes), strict=False)

        assert config.ok
        assert config.user is not None
        assert at(config, "$.motor_coordinator_config.quantum_config").severity == "warning"
        assert at(config, "$.motor_common_env").severity == "warning"

    def test_wrong_values_are_still_errors(self, tmp_path):
        config = load(tmp_path, with_changes(separate(), {f"{DEPLOY}.p_instances_num": 99}), strict=False)
        assert not config.ok
