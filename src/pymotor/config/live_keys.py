"""Which keys of `user_config.json` may change while a fleet runs, and which part takes each of them up.

The one table of it: `pymotor deploy --update_config` lets these through and no others, pods are not rolled out anew
for them, and each running part applies those that name it and reports what else of its own has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from pymotor.config.differences import Path
from pymotor.config.user import DEPLOY_LETTER, ROLES


class Part(Enum):
    """A process that reads `user_config.json` for as long as it runs."""

    COORDINATOR = "coordinator"
    CONTROLLER = "controller"
    NODE_MANAGER = "node-manager"
    UP = "up"
    """`pymotor up`, which hands the file on to the others of its machine."""


class LiveKey(NamedTuple):
    """A key, or a section with all that is in it."""

    path: tuple[str, ...]
    parts: frozenset[Part]
    """Who takes it up; nobody: no part reads it, so that changing it changes nothing."""


_COORDINATOR = "motor_coordinator_config"
_CONTROLLER = "motor_controller_config"
_DEPLOY = "motor_deploy_config"
_TAKEN_FROM_COORDINATOR: dict[str, tuple[str, ...]] = {
    "logging_config": ("log_level",),
    "exception_config": (
        *("max_retry", "recompute_enabled", "transport_max_retry", "recompute_max_retry", "engine_failure_max_retry"),
        *("retry_delay", "first_token_timeout", "output_token_timeout", "infer_timeout"),
        *("retry_budget_ratio", "retry_budget_floor", "recovery_buffer_bytes"),
        *("circuit_failures", "circuit_pause", "circuit_longest_pause"),
    ),
    "dashboard_config": ("requests_per_second",),
    "scheduler_config": ("prefill_threshold",),
    "request_limit": (
        *("max_running", "max_queued", "queue_timeout", "media_needs_kv_room", "media_answer_tokens"),
        "max_media_items",
    ),
    "rate_limit_config": (
        *("max_requests", "max_tokens", "key_max_requests", "key_max_tokens"),
        *("error_message", "error_status_code"),
    ),
    "tracer_config": (
        "root_sampling_rate",
        "remote_parent_sampled",
        "remote_parent_not_sampled",
        "local_parent_sampled",
    ),
    "encode_config": ("forward_media", "fallback", "reuse_seconds", "reuse_bytes", "hedge_after"),
    "http_config": (
        *("server_timing", "stream_idle_timeout", "stream_keepalive"),
        *("header_timeout", "body_idle_timeout", "body_limit_bytes", "arriving_limit_bytes", "header_limit_bytes"),
    ),
}
_TAKEN_FROM_CONTROLLER: dict[str, tuple[str, ...]] = {
    "logging_config": ("log_level",),
    "instance_config": (
        *("node_timeout", "silent_grace", "gone_timeout", "listen_seconds", "drain_limit", "coordinator_timeout"),
        "instance_assemble_timeout",
    ),
    "fault_tolerance_config": (
        *("enable_fault_tolerance", "strategy_center_check_interval", "enable_token_reinference"),
        *("enable_scale_p2d", "scale_p2d_wait", "scale_p2d_pause", "scale_p2d_release"),
    ),
    "observability_config": ("observability_enable",),
}
_TAKEN_FROM_ENGINES: dict[str, tuple[tuple[str, ...], ...]] = {
    "motor_nodemanger_config": (("logging_config", "log_level"), ("basic_config", "heartbeat_interval_seconds")),
    "health_check_config": (("health_collector_timeout",), ("enable_virtual_inference",), ("max_failure_count",)),
}
_TLS = ("enable_tls", "ca_file", "cert_file", "key_file", "passwd_file", "crl_file")
_READ_BY_NOBODY: tuple[tuple[str, ...], ...] = (
    *((_DEPLOY, "tls_config", "north_tls_config", key) for key in _TLS),
    *(("north_config", key) for key in ("name", "ip", "port")),
    (_CONTROLLER, "observability_config", "metrics_ttl"),
    (_COORDINATOR, "timeout_config"),
    ("motor_nodemanger_config", "logging_config", "log_level"),
)
"""Users may change them as ever; the guides of older versions say so."""


def _taken(section: str, keys: dict[str, tuple[str, ...]], part: Part) -> Iterable[LiveKey]:
    return (LiveKey((section, inner, key), frozenset([part])) for inner, names in keys.items() for key in names)


LIVE_KEYS: tuple[LiveKey, ...] = (
    *_taken(_COORDINATOR, _TAKEN_FROM_COORDINATOR, Part.COORDINATOR),
    *_taken(_CONTROLLER, _TAKEN_FROM_CONTROLLER, Part.CONTROLLER),
    *(
        LiveKey((f"motor_engine_{role}_config", inner, *path), frozenset([Part.NODE_MANAGER]))
        for role in ROLES
        for inner, paths in _TAKEN_FROM_ENGINES.items()
        for path in paths
    ),
    *(LiveKey(path, frozenset()) for path in _READ_BY_NOBODY),
)
"""What `--update_config` may change."""

INSTANCE_NUMBERS: tuple[str, ...] = tuple(f"{DEPLOY_LETTER[role]}_instances_num" for role in ROLES)
"""Keys of `motor_deploy_config` that say how many instances there are."""
SCALING_KEYS: tuple[LiveKey, ...] = tuple(
    LiveKey((_DEPLOY, number), frozenset([Part.CONTROLLER])) for number in INSTANCE_NUMBERS
)
"""What `--update_instance_num` may change: the Controller learns how many are expected."""

_READ: dict[Part, tuple[tuple[str, ...], ...]] = {
    Part.COORDINATOR: ((_COORDINATOR,), (_CONTROLLER, "api_config"), (_DEPLOY, "tls_config")),
    Part.CONTROLLER: ((_CONTROLLER,), (_DEPLOY, "tls_config")),
    Part.NODE_MANAGER: (
        *((f"motor_engine_{role}_config",) for role in ROLES),
        *(("kv_cache_pool_config",), ("kv_conductor_config",), (_CONTROLLER, "api_config")),
        (_CONTROLLER, "fault_tolerance_config", "enable_role_switch"),
        *((_DEPLOY, key) for key in ("job_id", "hardware_type", "tls_config")),
        *((_DEPLOY, f"single_{letter}_instance_pod_num") for letter in DEPLOY_LETTER.values()),
        *((_DEPLOY, f"{letter}_pod_npu_num") for letter in DEPLOY_LETTER.values()),
    ),
}
"""The places that a part reads at its start."""


def live_key(path: Path, keys: Sequence[LiveKey] = (*LIVE_KEYS, *SCALING_KEYS)) -> LiveKey | None:
    """The entry of the table that covers a path; None: it needs a restart of whoever reads it."""
    return next((key for key in keys if path[: len(key.path)] == key.path), None)


def taken_by(part: Part) -> list[LiveKey]:
    """The keys that the part takes up while it runs."""
    if part is Part.UP:
        return [key for key in LIVE_KEYS if key.parts]
    return [key for key in (*LIVE_KEYS, *SCALING_KEYS) if part in key.parts]


def read_at_start(part: Part, path: Path, roles: Iterable[str] = ROLES) -> bool:
    """Whether the part reads a path when it starts, and then no more. `roles`: those that its engines may have."""
    if part is Part.UP:
        return live_key(path, LIVE_KEYS) is None
    others = {f"motor_engine_{role}_config" for role in ROLES} - {f"motor_engine_{role}_config" for role in roles}
    if live_key(path) is not None or path[0] in others:
        return False
    # A place above what is read may be given for all that is below it.
    return any(path[: len(read)] == read or read[: len(path)] == path for read in _READ[part])
