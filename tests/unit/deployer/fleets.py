"""Twelve deployments that have little in common: what golden files and schemas are checked with."""

from __future__ import annotations

from typing import Any

from deployments import deploying, epd_guide, example, hybrid_env, hybrid_guide

from changed_config import with_changes

Fleet = tuple[dict[str, Any], dict[str, Any]]

IMAGE = "registry.example.org/pymotor:1.0"
_POOL = {
    "metadata_server": "P2PHANDSHAKE",
    "protocol": "ascend",
    "global_segment_size": 1073741824,
    "eviction_high_watermark_ratio": 0.9,
    "eviction_ratio": 0.1,
}
_EVENTS = {"publisher": "zmq", "enable_kv_cache_events": True, "endpoint": "tcp://*:5557"}


def _standby() -> dict[str, Any]:
    on = {"standby_config": {"enable_master_standby": True}}
    changes = {"motor_controller_config": {**on, "observability_config": {"observability_enable": True}}}
    return with_changes(deploying(example("vllm"), image_name=IMAGE), {**changes, "motor_coordinator_config": on})


def _several_nodes() -> dict[str, Any]:
    wide = deploying(
        example("vllm"),
        deploy_mode="multi_deployment",
        hardware_type="950-SuperPod-Atlas-8",
        image_name=IMAGE,
        single_p_instance_pod_num=2,
        p_pod_npu_num=8,
        d_pod_npu_num=8,
    )
    sizes = {"data_parallel_size": 2, "tensor_parallel_size": 8}
    prefill = {f"motor_engine_prefill_config.engine_config.{key}": value for key, value in sizes.items()}
    decode = {"motor_engine_decode_config.engine_config.tensor_parallel_size": 8}
    return with_changes(wide, {**prefill, **decode})


def _heterogeneous() -> dict[str, Any]:
    return deploying(example("vllm"), image_name=IMAGE, hardware_type="850-Atlas-8p-8", enable_pd_heterogeneous=True)


def _pool() -> dict[str, Any]:
    base = deploying(hybrid_guide(), image_name=IMAGE)
    return with_changes(
        base,
        {
            "kv_cache_pool_config": _POOL,
            "kv_conductor_config": {
                "http_server_port": 13333,
                "kvevent_instance": {"mooncake_master": {"type": "Mooncake"}},
            },
            "motor_coordinator_config": {"scheduler_config": {"scheduler_type": "kv_cache_affinity"}},
            "motor_engine_union_config.engine_config.kv-events-config": _EVENTS,
            "motor_engine_union_config.engine_config.enable-prefix-caching": True,
        },
    )


def _claims() -> dict[str, Any]:
    return deploying(
        epd_guide(),
        deploy_mode="infer_service_set",
        image_name=IMAGE,
        kubernetes_config={
            "persistent_volume_claims": {"/mnt/share": "share", "/mnt/weight": "weights"},
            "coordinator_node_port": 0,
            "observability_node_port": 0,
            "image_pull_secrets": ["registry"],
        },
    )


def _gpu() -> dict[str, Any]:
    return deploying(
        hybrid_guide(),
        deploy_mode="multi_deployment",
        hardware_type="gpu",
        image_name=IMAGE,
        kubernetes_config={
            "rdma_resource": "rdma/hca",
            "engine_run_as_user": 2000,
            "node_selector": {"disk": "fast"},
            "resources": {"union": {"requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"memory": "64Gi"}}},
        },
    )


def _tls() -> dict[str, Any]:
    directory = "/etc/pymotor/certificates"
    absolute = {"enable_tls": True, "ca_file": f"{directory}/ca.crt", "cert_file": f"{directory}/tls.crt"}
    absolute.update(key_file=f"{directory}/tls.key", passwd_file="")
    return deploying(
        hybrid_guide(),
        deploy_mode="multi_deployment",
        image_name=IMAGE,
        tls_config={"infer_tls_config": absolute, "mgmt_tls_config": {"enable_tls": True}},
        kubernetes_config={"tls_secrets": {"infer_tls_config": "door", "mgmt_tls_config": "inside"}},
    )


def _single() -> dict[str, Any]:
    apart: dict[str, Any] = {
        f"motor_engine_{role}_config.motor_nodemanger_config": {
            "api_config": {"node_manager_port": 3026 + number},
            "endpoint_config": {"base_port": 10000 + 100 * number},
        }
        for number, role in enumerate(("encode", "prefill", "decode"))
    }
    apart["motor_controller_config.api_config"] = {"controller_api_port": 2026, "observability_api_port": 2027}
    return with_changes(
        deploying(example("sim/epd"), deploy_mode="single_container", image_name=IMAGE, job_id="mindie-motor"), apart
    )


FLEETS: dict[str, Fleet] = {
    "epd_a2_multi": (epd_guide(), {}),
    "epd_a2_set": (deploying(epd_guide(), deploy_mode=...), {}),
    "hybrid_a3_set": (hybrid_guide(), hybrid_env()),
    "hybrid_a3_multi": (deploying(hybrid_guide(), deploy_mode="multi_deployment"), hybrid_env()),
    "pd_standby_set": (_standby(), {}),
    "pd_950_several_nodes_multi": (_several_nodes(), {}),
    "pd_850_heterogeneous_set": (_heterogeneous(), {}),
    "hybrid_pool_conductor_set": (_pool(), hybrid_env()),
    "epd_claims_set": (_claims(), {}),
    "hybrid_gpu_multi": (_gpu(), hybrid_env()),
    "epd_cpu_single_container": (_single(), {}),
    "hybrid_tls_multi": (_tls(), {}),
}
