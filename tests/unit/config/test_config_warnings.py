"""What loads, but probably not as it was meant."""

from __future__ import annotations

import pytest
from configs import at, load, separate

from changed_config import with_changes

DEPLOY = "motor_deploy_config"
COORDINATOR = "motor_coordinator_config"
CONTROLLER = "motor_controller_config"
PREFILL = "motor_engine_prefill_config"
NO_EFFECT = "the key has no effect"
EVENTS = {
    "publisher": "zmq",
    "enable_kv_cache_events": True,
    "endpoint": "tcp://*:5557",
    "replay_endpoint": "tcp://*:6667",
}
AFFINITY = {
    f"{COORDINATOR}.scheduler_config.scheduler_type": "kv_cache_affinity",
    "kv_conductor_config": {"http_server_port": 13333},
}

WARNINGS = {
    "a conductor on a port of the Coordinator": (
        {"kv_conductor_config": {"http_server_port": 1025}},
        "$.kv_conductor_config.http_server_port",
        ["port 1025", "coordinator_api_infer_port", "choose another port"],
    ),
    "a conductor on a port that a fleet of one machine has": (
        {"kv_conductor_config": {"http_server_port": 31016}},
        "$.kv_conductor_config.http_server_port",
        ["port 31016", "pymotor up", "--port"],
    ),
    "the TLS switch of the old pages": (
        {f"{DEPLOY}.tls_config.infer_tls_config": {"tls_enable": True}},
        "$.motor_deploy_config.tls_config.infer_tls_config.tls_enable",
        [NO_EFFECT, "write enable_tls instead"],
    ),
    "TLS of a protocol nobody speaks": (
        {f"{DEPLOY}.tls_config.grpc_tls_config": {"enable_tls": False}},
        "$.motor_deploy_config.tls_config.grpc_tls_config",
        [NO_EFFECT],
    ),
    "a misspelt interval of the old pages": (
        {f"{CONTROLLER}.instance_config.instance_assembler_check_internal": 1},
        "$.motor_controller_config.instance_config.instance_assembler_check_internal",
        [NO_EFFECT, "write instance_assembler_check_interval instead"],
    ),
    "a dead timeout": (
        {f"{CONTROLLER}.instance_config.instance_heartbeat_timeout": 10},
        "$.motor_controller_config.instance_config.instance_heartbeat_timeout",
        [NO_EFFECT],
    ),
    "dead timeouts": (
        {f"{COORDINATOR}.timeout_config": {"read_timeout": 15}},
        "$.motor_coordinator_config.timeout_config",
        [NO_EFFECT, "exception_config"],
    ),
    "dead limits": (
        {f"{COORDINATOR}.request_limit": {"max_requests": 10}},
        "$.motor_coordinator_config.request_limit.max_requests",
        [NO_EFFECT, "write max_running instead"],
    ),
    "a renamed strategy": (
        {f"{CONTROLLER}.fault_tolerance_config.enable_lingqu_network_recover": True},
        "$.motor_controller_config.fault_tolerance_config.enable_lingqu_network_recover",
        [NO_EFFECT, "write enable_token_reinference instead"],
    ),
    "endpoints beside the options": (
        {f"{PREFILL}.enable_multi_endpoints": True},
        "$.motor_engine_prefill_config.enable_multi_endpoints",
        [NO_EFFECT, "belongs in engine_config"],
    ),
    "a NodeManager section at the top": (
        {"motor_nodemanger_config": {}},
        "$.motor_nodemanger_config",
        [NO_EFFECT, "inside an engine section"],
    ),
    "a computed value": (
        {f"{PREFILL}.motor_nodemanger_config.basic_config.device_num": 8},
        "$.motor_engine_prefill_config.motor_nodemanger_config.basic_config.device_num",
        [NO_EFFECT, "computed"],
    ),
    "a place of events beside the engines": (
        {f"{COORDINATOR}.prefill_kv_event_config": {"endpoint": "tcp://*:5557"}},
        "$.motor_coordinator_config.prefill_kv_event_config.endpoint",
        [NO_EFFECT, "kv-events-config in their engine_config"],
    ),
    "a size of blocks beside the engines": (
        {f"{COORDINATOR}.prefill_kv_event_config": {"block_size": 128}},
        "$.motor_coordinator_config.prefill_kv_event_config.block_size",
        [NO_EFFECT, "engines tell"],
    ),
    "no engine type": (
        {f"{PREFILL}.engine_type": ...},
        "$.motor_engine_prefill_config.engine_type",
        ["missing: vllm is assumed"],
    ),
    "the old model section": (
        {f"{PREFILL}.model_config": {"model_name": "m", "parallel_config": {"tp_size": 2}}},
        "$.motor_engine_prefill_config.model_config",
        ["deprecated", "served_model_name, tensor_parallel_size"],
    ),
    "the old model section against the options": (
        {f"{PREFILL}.model_config": {"model_path": "/other"}},
        "$.motor_engine_prefill_config.engine_config.model",
        ["model_config says otherwise (/other)"],
    ),
    "an engine option that is nearly one we know": (
        {f"{PREFILL}.engine_config.tensor_paralel_size": 2},
        "$.motor_engine_prefill_config.engine_config.tensor_paralel_size",
        ["did you mean tensor_parallel_size?"],
    ),
    "a model misspelt": (
        {f"{PREFILL}.engine_config": {"modle": "m"}},
        "$.motor_engine_prefill_config.engine_config.modle",
        ["did you mean model?"],
    ),
    "accelerators of a CPU": (
        {f"{DEPLOY}.p_pod_npu_num": 2},
        "$.motor_deploy_config.p_pod_npu_num",
        ["no effect with hardware_type cpu"],
    ),
    "union beside prefill and decode": (
        {
            f"{DEPLOY}.hybrid_instances_num": 1,
            "motor_engine_union_config": {"engine_type": "sim", "engine_config": {"model": "m"}},
        },
        "$.motor_deploy_config.hybrid_instances_num",
        ["short prompts go to union", "prefill_threshold"],
    ),
    "encoders described and not counted": (
        {"motor_engine_encode_config": {"engine_type": "sim", "engine_config": {"model": "m"}}},
        "$.motor_deploy_config.e_instances_num",
        ["no encode instance is started"],
    ),
    "affinity without an index": (
        {
            f"{COORDINATOR}.scheduler_config.scheduler_type": "kv_cache_affinity",
            f"{PREFILL}.engine_config.kv-events-config": {"endpoint": "tcp://*:5557"},
        },
        "$.kv_conductor_config",
        ["beginnings of texts are compared", "13333"],
    ),
    "affinity without a conductor to ask": (
        {
            **AFFINITY,
            f"{PREFILL}.engine_config.kv-events-config": EVENTS,
            f"{COORDINATOR}.prefill_kv_event_config": {"conductor_service": ""},
        },
        "$.motor_coordinator_config.prefill_kv_event_config.conductor_service",
        ["ask no KV Conductor", "remove it"],
    ),
    "engines that tell nothing": (
        {**AFFINITY, f"{PREFILL}.engine_config.kv-events-config": {**EVENTS, "publisher": "null"}},
        "$.motor_engine_prefill_config.engine_config.kv-events-config.publisher",
        ["do not tell what they cache", 'write "zmq"'],
    ),
    "events that are off": (
        {**AFFINITY, f"{PREFILL}.engine_config.kv-events-config": {**EVENTS, "enable_kv_cache_events": False}},
        "$.motor_engine_prefill_config.engine_config.kv-events-config.enable_kv_cache_events",
        ["do not tell what they cache", "write true"],
    ),
    "events that are never told again": (
        {
            **AFFINITY,
            f"{PREFILL}.engine_config.kv-events-config": {
                key: value for key, value in EVENTS.items() if key != "replay_endpoint"
            },
        },
        "$.motor_engine_prefill_config.engine_config.kv-events-config.replay_endpoint",
        ["missing while scheduler_type is kv_cache_affinity", "what these engines tell next", "tcp://*:6667"],
    ),
    "a place to be told again that is empty": (
        {**AFFINITY, f"{PREFILL}.engine_config.kv-events-config": {**EVENTS, "replay_endpoint": None}},
        "$.motor_engine_prefill_config.engine_config.kv-events-config.replay_endpoint",
        ["missing while scheduler_type is kv_cache_affinity"],
    ),
    "events that are off, as text": (
        {**AFFINITY, f"{PREFILL}.engine_config.kv_events_config": '{"publisher": "zmq"}'},
        "$.motor_engine_prefill_config.engine_config.kv_events_config.enable_kv_cache_events",
        ["write true"],
    ),
    "affinity without prefix caching": (
        {
            **AFFINITY,
            f"{PREFILL}.engine_config.kv-events-config": EVENTS,
            f"{PREFILL}.engine_config.no-enable-prefix-caching": True,
        },
        "$.motor_engine_prefill_config.engine_config.no-enable-prefix-caching",
        ["cache no prefixes", "load_balance"],
    ),
    "affinity without events": (
        AFFINITY,
        "$.motor_engine_prefill_config.engine_config.kv-events-config",
        ["do not tell what they cache", '"replay_endpoint": "tcp://*:6667"'],
    ),
    "too many pods for the devices": (
        {
            f"{DEPLOY}.hardware_type": "gpu",
            f"{DEPLOY}.p_pod_npu_num": 1,
            f"{DEPLOY}.single_p_instance_pod_num": 3,
            f"{DEPLOY}.d_pod_npu_num": 1,
        },
        "$.motor_deploy_config.single_p_instance_pod_num",
        ["devices lie idle", "write 1"],
    ),
    "a plain API key": (
        {f"{COORDINATOR}.api_key_config.valid_keys": ["hunter2"]},
        "$.motor_coordinator_config.api_key_config.valid_keys[0]",
        ["looks like a plain key", "salt:iterations:hash"],
    ),
    "a pool key that is nearly one we know": (
        {
            "kv_cache_pool_config": {
                "eviction_high_watermark_ratio": 0.9,
                "eviction_ratio": 0.1,
                "global_segment_sizes": 1,
            }
        },
        "$.kv_cache_pool_config.global_segment_sizes",
        ["did you mean global_segment_size?"],
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warning(tmp_path, case):
    changes, path, words = WARNINGS[case]
    config = load(tmp_path, with_changes(separate(), changes))

    assert config.ok, [str(problem) for problem in config.problems]
    text = str(at(config, path))
    assert text.startswith("warning: ")
    for word in words:
        assert word in text


def test_affinity_that_works(tmp_path):
    changes = {**AFFINITY, f"{PREFILL}.engine_config.kv-events-config": EVENTS}
    assert load(tmp_path, with_changes(separate(), changes)).problems == ()


def test_missing_tls_files(tmp_path):
    (tmp_path / "ca.crt").touch()
    block = {"enable_tls": True, "ca_file": "ca.crt", "key_file": "/nowhere/key", "passwd_file": ""}
    config = load(tmp_path, with_changes(separate(), {f"{DEPLOY}.tls_config.infer_tls_config": block}))

    assert config.ok
    names = [problem.path.rpartition(".")[2] for problem in config.problems]
    assert names == ["cert_file", "key_file"]


def test_pool_keys_pass_through(tmp_path):
    pool = {"eviction_high_watermark_ratio": 0.9, "eviction_ratio": 0.1, "use_ascend_direct": True}
    config = load(tmp_path, with_changes(separate(), {"kv_cache_pool_config": pool}))

    assert config.problems == ()
    assert config.user is not None
    assert config.user.kv_cache_pool_config is not None
    assert config.user.kv_cache_pool_config.model_extra == {"use_ascend_direct": True}


def test_devices_of_several_ranks_and_pods(tmp_path):
    changes = {
        f"{DEPLOY}.hardware_type": "800I_A3",
        f"{DEPLOY}.image_name": "motor",
        f"{DEPLOY}.p_pod_npu_num": 16,
        f"{DEPLOY}.single_p_instance_pod_num": 2,
        f"{DEPLOY}.d_pod_npu_num": 1,
        f"{PREFILL}.engine_config.data_parallel_size": "2",
        f"{PREFILL}.engine_config.tensor-parallel-size": 8,
        f"{PREFILL}.engine_config.prefill_context_parallel_size": 2,
    }
    assert load(tmp_path, with_changes(separate(), changes)).problems == ()


def test_sglang_attention_ranks_share_devices(tmp_path):
    engine = {"model-path": "m", "tp-size": 8, "dp-size": 8, "enable-dp-attention": True}
    changes = {
        f"{DEPLOY}.hardware_type": "gpu",
        f"{DEPLOY}.image_name": "motor",
        f"{DEPLOY}.p_pod_npu_num": 8,
        f"{DEPLOY}.d_pod_npu_num": 1,
        PREFILL: {"engine_type": "sglang", "engine_config": engine},
    }
    assert load(tmp_path, with_changes(separate(), changes)).problems == ()
