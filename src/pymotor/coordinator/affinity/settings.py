"""What a worker needs to know to choose by more than load, from `user_config.json` and the environment.

A user writes `scheduler_config`, `kv_conductor_config` and the engines' `kv-events-config`; where the conductor listens
and which files tell a prompt's tokens follows from these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pymotor.control_plane.plane import PlaneTLS
from pymotor.coordinator.affinity.prompt_files import engines_template, models_tokenizer, prompted_options
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules

if TYPE_CHECKING:
    from pymotor.config import UserConfig

SERVICE_VARIABLE = "KV_CONDUCTOR_SERVICE"
"""Host, or host:port, of the conductor in a cluster."""
LOCAL_VARIABLE = "PYMOTOR_KV_CONDUCTOR"
"""host:port of the conductor of a local fleet."""
_LOOPBACK = "127.0.0.1"


class AffinitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """See the module; nothing of it matters to `load_balance` and `round_robin`."""

    rules: AffinityRules = AffinityRules()
    conductor_host: str = ""
    """Empty: there is no conductor."""
    conductor_port: int = 0
    patience: float = 0.02
    """Seconds that a request waits for the conductor."""
    session_header: str = "x-session-id"
    """In lower case."""
    model_directory: str = ""
    """With the tokenizer, where no `tokenizer_path` is configured; empty: none."""
    template: str = ""
    """The chat template that engines are started with in place of the model's."""
    template_options: dict[str, Any] = {}
    """Its variables that engines are started with."""
    conductor_tls: PlaneTLS | None = None
    """None: the conductor is asked in clear."""


def affinity_settings(
    user: UserConfig,
    environment: Mapping[str, str],
    conductor_tls: PlaneTLS | None = None,
    directory: Path = Path(),
) -> AffinitySettings:
    """What the configuration says, whose relative paths begin at `directory`."""
    scheduler = user.motor_coordinator_config.scheduler_config
    rules = AffinityRules(
        mode=scheduler.kv_affinity_mode,
        load_weight=float(scheduler.kv_affinity_load_weight),
        overlap_credit=float(scheduler.kv_affinity_overlap_credit),
        prefill_load_scale=float(scheduler.kv_affinity_prefill_load_scale),
        load_gate_topn=scheduler.kv_affinity_load_gate_topn,
        load_bound=float(scheduler.kv_affinity_load_bound),
    )
    by_prefix = scheduler.scheduler_type == "kv_cache_affinity"
    tokenizer = models_tokenizer(user, directory) if by_prefix else None
    host, port = conductor_address(user, environment) if by_prefix else ("", 0)
    return AffinitySettings(
        rules=rules,
        conductor_host=host,
        conductor_port=port,
        patience=float(scheduler.kv_affinity_patience),
        session_header=scheduler.session_header.lower(),
        model_directory=tokenizer.named if tokenizer is not None else "",
        template=engines_template(user),
        template_options=_template_options(prompted_options(user).get("default_chat_template_kwargs")),
        conductor_tls=conductor_tls if host else None,
    )


def conductor_address(user: UserConfig, environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the KV Conductor; an empty host where there is none."""
    told = user.motor_coordinator_config.prefill_kv_event_config
    if told.conductor_service is not None:
        return (told.conductor_service, told.http_server_port) if told.conductor_service else ("", 0)
    conductor = user.kv_conductor_config
    port = conductor.http_server_port if conductor is not None else 0
    for variable in (SERVICE_VARIABLE, LOCAL_VARIABLE):
        stated = environment.get(variable, "")
        if stated and (port or ":" in stated):
            return _host_and_port(stated, port)
    return (_LOOPBACK, port) if port else ("", 0)


def _host_and_port(stated: str, port: int) -> tuple[str, int]:
    host, colon, digits = stated.rpartition(":")
    if colon and digits.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(digits)
    return stated.strip("[]"), port


def _template_options(stated: Any) -> dict[str, Any]:
    if isinstance(stated, str):
        try:
            stated = json.loads(stated)
        except ValueError:
            return {}
    return stated if isinstance(stated, dict) else {}
