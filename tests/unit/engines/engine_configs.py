"""Configurations and a host for planning that gives the same ports and identities every time."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.engines import HostResources

MODEL = "/mnt/weight/Qwen3-VL-30B-A3B-Instruct"


class FixedHost(HostResources):
    """A host on which every port is free and identities count up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(port_is_free=lambda address, port: True, **options)
        self.identities = 0
        self.experts: bool | None = None

    def new_id(self) -> str:
        self.identities += 1
        return f"id{self.identities}"

    def is_mixture_of_experts(self, model: str) -> bool | None:
        return self.experts


def vllm_host() -> FixedHost:
    """A host with vLLM 0.32."""
    return FixedHost(python="/opt/vllm/bin/python", engine_version="0.32.0")


def engine_options(**changes: Any) -> dict[str, Any]:
    """engine_config as the guides write it."""
    return {
        "served_model_name": "qwen3",
        "model": MODEL,
        "gpu_memory_utilization": 0.9,
        "data_parallel_size": 1,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "enable_expert_parallel": False,
        "data_parallel_rpc_port": 9000,
        "seed": 1024,
        "max_model_len": 128000,
        "trust-remote-code": True,
        "no-enable-prefix-caching": True,
        "allowed-local-media-path": "/mnt/share/media/",
        **changes,
    }


def layerwise(role: str) -> dict[str, Any]:
    """kv_transfer_config as the guides write it, old keys and shared engine_id included."""
    return {
        "kv_connector": "MooncakeLayerwiseConnector",
        "kv_buffer_device": "npu",
        "kv_role": role,
        "kv_parallel_size": 1,
        "kv_port": "30001",
        "engine_id": "0",
        "kv_rank": 0,
        "kv_connector_extra_config": {},
    }


def files(role: str) -> dict[str, Any]:
    """ec-transfer-config with a shared directory."""
    return {
        "ec_connector": "ECExampleConnector",
        "ec_role": role,
        "ec_connector_extra_config": {"shared_storage_path": "/mnt/share/ec_cache"},
    }


def epd() -> dict[str, Any]:
    """Two encoders, a prefill and a decode instance on Ascend."""
    return {
        "version": "v2.0",
        "motor_deploy_config": {
            "e_instances_num": 2,
            "p_instances_num": 1,
            "d_instances_num": 1,
            "e_pod_npu_num": 1,
            "p_pod_npu_num": 2,
            "d_pod_npu_num": 2,
            "image_name": "motor:1",
            "job_id": "motor",
            "hardware_type": "800I_A2",
        },
        "motor_engine_encode_config": {
            "engine_type": "vllm",
            "engine_config": engine_options(
                **{"tensor_parallel_size": 1, "enforce_eager": True, "ec-transfer-config": files("ec_producer")}
            ),
        },
        "motor_engine_prefill_config": {
            "engine_type": "vllm",
            "engine_config": engine_options(
                **{"ec-transfer-config": files("ec_consumer"), "kv_transfer_config": layerwise("kv_producer")}
            ),
        },
        "motor_engine_decode_config": {
            "engine_type": "vllm",
            "engine_config": engine_options(kv_transfer_config=layerwise("kv_consumer")),
        },
    }


def union(**changes: Any) -> dict[str, Any]:
    """One union instance on a CPU."""
    options = {"model": MODEL, "served_model_name": "qwen3", "max_model_len": 2048, **changes}
    return {
        "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "cpu"},
        "motor_engine_union_config": {"engine_type": "vllm", "engine_config": options},
    }


def options_of(config: dict[str, Any], role: str) -> dict[str, Any]:
    """The engine_config of a role, to change it."""
    found: dict[str, Any] = config[f"motor_engine_{role}_config"]["engine_config"]
    return found


def user_config(config: dict[str, Any]) -> UserConfig:
    """The typed configuration."""
    return UserConfig.model_validate(copy.deepcopy(config))


def env_config(**sections: dict[str, Any]) -> EnvConfig:
    """The typed environment."""
    return EnvConfig.model_validate(sections)


def write_config(directory: Path, config: object, env: object = None) -> Path:
    """Write both files into a directory; returns it."""
    (directory / "user_config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "env.json").write_text(json.dumps(env or {}), encoding="utf-8")
    return directory
