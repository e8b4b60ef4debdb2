"""`--engine`: any configuration, made to run on this machine.

What cannot be here (an accelerator, its connectors, a model of sixty gigabytes, a second node) is replaced by what
can; everything else of the configuration stays as the user wrote it. Pure: nothing is read, written or started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymotor.config import EngineSection, EnvConfig, UserConfig
from pymotor.config.user import DEPLOY_LETTER, ROLES
from pymotor.fleet.dialects import handing_connector
from pymotor.local.events import Replaced
from pymotor.local.request import LocalEngine

VLLM_CPU_BYTES = 2_200_000_000
"""Resident memory of one vLLM instance with the tiny model: API server, engine core and worker."""

VLLM_CPU_OPTIONS: Mapping[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 4096,
}
_KEPT_BY_VLLM_CPU = frozenset(
    {
        "disable_log_requests",
        "enable_prefix_caching",
        "enable_request_id_headers",
        "generation_config",
        "kv_events_config",
        "limit_mm_per_prompt",
        "mm_processor_cache_gb",
        "mm_processor_kwargs",
        "no_enable_prefix_caching",
        "seed",
        "served_model_name",
    }
)
"""Options that mean the same on a CPU with a tiny model; all others are for the hardware or the model."""
_SGLANG_TO_VLLM = {
    "model_path": "model",
    "served_model_name": "served_model_name",
    "context_length": "max_model_len",
}
_ORDERS_OF_OTHER_CONNECTORS = ("cdp_separate", "pd_dual_dispatch", "pd_disaggregation_single_container")


@dataclass(frozen=True, kw_only=True)
class LocalMeans:
    """What this machine offers."""

    engine: LocalEngine
    store: Path
    """The directory in which embeddings are handed over."""
    model: Path | None = None
    """The model that real vLLM serves."""
    instance_limit: int | None = None
    """How many instances fit; None: as many as are wanted."""
    kept_tls: frozenset[str] = frozenset()
    """Planes of `tls_config` whose certificates are here."""


@dataclass(frozen=True)
class Substitution:
    """A configuration that runs here, and what became of the user's."""

    user: UserConfig
    env: EnvConfig
    replaced: tuple[Replaced, ...]


def substitute(user: UserConfig, env: EnvConfig, means: LocalMeans) -> Substitution:
    """The configuration with engine, hardware, model and connectors of this machine, and each replacement."""
    content = user.model_dump(by_alias=True, exclude_unset=True)
    edits = _Edits()
    was_local = user.motor_deploy_config.hardware_type == "cpu"
    deploy = content.setdefault("motor_deploy_config", {})
    _replace_hardware(deploy, edits)
    _replace_tls(deploy, means.kept_tls, edits)
    _replace_counts(user, deploy, means.instance_limit, edits)
    _replace_services(content, edits)
    for role in ROLES:
        section = user.engine_section(role)
        if section is not None:
            key = f"motor_engine_{role}_config"
            _replace_engine(role, section, content[key], f"$.{key}", means, edits)
    if not was_local:
        env = _replace_environment(env, edits)
    return Substitution(UserConfig.model_validate(content), env, tuple(edits.made))


class _Edits:
    """Changes of JSON objects, noted as they are made."""

    def __init__(self) -> None:
        self.made: list[Replaced] = []

    def note(self, where: str, old: object, new: object) -> None:
        self.made.append(Replaced(where, _shown(old, "(not set)"), _shown(new, "(removed)")))

    def put(self, container: dict[str, Any], key: str, new: object, where: str) -> None:
        """Set a key; None takes it out."""
        old = container.get(key)
        if old == new:
            return
        if new is None:
            del container[key]
        else:
            container[key] = new
        self.note(f"{where}.{key}", old, new)


def _replace_hardware(deploy: dict[str, Any], edits: _Edits) -> None:
    where = "$.motor_deploy_config"
    edits.put(deploy, "hardware_type", "cpu", where)
    for letter in DEPLOY_LETTER.values():
        if deploy.get(f"single_{letter}_instance_pod_num", 1) != 1:
            edits.put(deploy, f"single_{letter}_instance_pod_num", 1, where)
        edits.put(deploy, f"{letter}_pod_npu_num", None, where)


def _replace_tls(deploy: dict[str, Any], kept: frozenset[str], edits: _Edits) -> None:
    planes = deploy.get("tls_config", {})
    for plane, block in list(planes.items()):
        if isinstance(block, dict) and block.get("enable_tls") and plane not in kept:
            why = "no TLS: its certificates are not on this machine, and nothing is encrypted"
            edits.note(f"$.motor_deploy_config.tls_config.{plane}", "TLS", why)
            del planes[plane]


def _replace_counts(user: UserConfig, deploy: dict[str, Any], limit: int | None, edits: _Edits) -> None:
    if limit is None:
        return
    wanted = {role: user.instance_count(role) for role in ROLES if user.instance_count(role) > 0}
    for role, count in fitting_counts(wanted, limit).items():
        edits.put(deploy, f"{DEPLOY_LETTER[role]}_instances_num", count, "$.motor_deploy_config")


def fitting_counts(wanted: Mapping[str, int], limit: int) -> dict[str, int]:
    """At most `limit` instances in all, taken from the role that has most, but one of each role in any case."""
    counts = dict(wanted)
    while sum(counts.values()) > limit and max(counts.values()) > 1:
        largest = max(counts, key=lambda role: counts[role])
        counts[largest] -= 1
    return counts


def _replace_services(content: dict[str, Any], edits: _Edits) -> None:
    """What only other connectors need, and what a fleet on one machine does not start."""
    scheduler = content.get("motor_coordinator_config", {}).get("scheduler_config", {})
    if scheduler.get("deploy_mode") in _ORDERS_OF_OTHER_CONNECTORS:
        edits.put(scheduler, "deploy_mode", None, "$.motor_coordinator_config.scheduler_config")
    if content.get("kv_cache_pool_config"):
        edits.note("$.kv_cache_pool_config", "configured", "not started on this machine")
        del content["kv_cache_pool_config"]


def _replace_engine(
    role: str, section: EngineSection, content: dict[str, Any], where: str, means: LocalMeans, edits: _Edits
) -> None:
    engine_type = "sim" if means.engine == "sim" else "vllm"
    options = section.options
    was_sglang = section.engine_type == "sglang"
    if was_sglang:
        dropped = [name for name in options if name not in _SGLANG_TO_VLLM]
        options = {_SGLANG_TO_VLLM[name]: value for name, value in options.items() if name in _SGLANG_TO_VLLM}
        if dropped:
            edits.note(f"{where}.engine_config", f"SGLang's {', '.join(dropped)}", None)
    if section.engine_type != engine_type:
        edits.note(f"{where}.engine_type", section.engine_type, engine_type)
    there = f"{where}.engine_config"
    _replace_model(options, there, means, edits)
    if means.engine == "vllm-cpu":
        _replace_options(options, there, edits)
    _replace_embedding_connector(role, options, there, means, edits)
    _replace_kv_connector(role, options, there, means, was_sglang, edits)
    content["engine_type"] = engine_type
    content["engine_config"] = options
    for key in ("model_config", "kv_dialect", "ec_dialect"):
        content.pop(key, None)


def _replace_model(options: dict[str, Any], where: str, means: LocalMeans, edits: _Edits) -> None:
    """Clients go on using the model's name; the simulator reads no weights, so there even the path may stay."""
    if means.model is None:
        return
    options.setdefault("served_model_name", options.get("model"))
    if options["served_model_name"] is None:
        del options["served_model_name"]
    edits.put(options, "model", str(means.model), where)


def _replace_options(options: dict[str, Any], where: str, edits: _Edits) -> None:
    transfer = {"model", "ec_transfer_config", "kv_transfer_config"}
    dropped = [name for name in options if name not in _KEPT_BY_VLLM_CPU | VLLM_CPU_OPTIONS.keys() | transfer]
    for name in dropped:
        del options[name]
    if dropped:
        edits.note(where, ", ".join(dropped), None)
    for name, value in VLLM_CPU_OPTIONS.items():
        if name not in options or options[name] != value:
            edits.put(options, name, value, where)


def _replace_embedding_connector(
    role: str, options: dict[str, Any], where: str, means: LocalMeans, edits: _Edits
) -> None:
    old = options.get("ec_transfer_config")
    if not isinstance(old, Mapping):
        return
    new = {
        "ec_connector": "ECExampleConnector",
        "ec_role": old.get("ec_role") or ("ec_producer" if role == "encode" else "ec_consumer"),
        "ec_connector_extra_config": {"shared_storage_path": str(means.store)},
    }
    options["ec_transfer_config"] = new
    edits.note(
        f"{where}.ec_transfer_config",
        f"{old.get('ec_connector')} in {_store_of(old)}" if _store_of(old) else old.get("ec_connector"),
        f"ECExampleConnector in {means.store}",
    )


def _store_of(ec_transfer_config: Mapping[str, Any]) -> str:
    extra = ec_transfer_config.get("ec_connector_extra_config")
    return str(extra.get("shared_storage_path") or "") if isinstance(extra, Mapping) else ""


def _replace_kv_connector(
    role: str, options: dict[str, Any], where: str, means: LocalMeans, was_sglang: bool, edits: _Edits
) -> None:
    old = options.get("kv_transfer_config")
    hands_over = role in ("prefill", "decode")
    if not isinstance(old, Mapping):
        if not (was_sglang and hands_over):
            return
        old = {"kv_connector": "SGLang's own"}
    if not hands_over:
        del options["kv_transfer_config"]
        edits.note(f"{where}.kv_transfer_config", old.get("kv_connector"), None)
        return
    produces = "kv_producer" if role == "prefill" else "kv_consumer"
    new = {"kv_connector": "NixlConnector", "kv_role": handing_connector(old).get("kv_role") or produces}
    if means.engine == "vllm-cpu":
        new["kv_buffer_device"] = "cpu"
    options["kv_transfer_config"] = new
    if {key: old.get(key) for key in new} != new:
        edits.note(f"{where}.kv_transfer_config", old.get("kv_connector"), "NixlConnector")


def _replace_environment(env: EnvConfig, edits: _Edits) -> EnvConfig:
    """Variables of engines are for their hardware; those of the Coordinator stay."""
    dropped = sorted({name for role in ROLES for name in env.variables(role)})
    if dropped:
        edits.note("env.json", ", ".join(dropped), None)
    return EnvConfig(motor_coordinator_env=env.motor_coordinator_env)


def _shown(value: object, absent: str) -> str:
    if value is None:
        return absent
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
