"""The services beside the fleet: KV conductor and KV pool."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config.problems import Problem, json_path, nearest
from pymotor.config.user import UserConfig


def kv_affinity(user: UserConfig, file: str) -> Iterator[Problem]:
    """Scheduling by cached prefixes needs an index of them, and engines that feed it."""
    scheduler = user.motor_coordinator_config.scheduler_config
    if scheduler.scheduler_type != "kv_cache_affinity":
        return
    conductor = user.kv_conductor_config
    if conductor is None or not conductor.http_server_port:
        yield Problem.warning(
            file,
            "$.kv_conductor_config.http_server_port" if conductor is not None else "$.kv_conductor_config",
            "missing while scheduler_type is kv_cache_affinity: without the index requests go by load",
            suggestion='add "kv_conductor_config": {"http_server_port": 13333}',
        )
    for role in ("prefill", "union"):
        section = user.engine_section(role)
        if user.instance_count(role) and section is not None and "kv_events_config" not in section.options:
            yield Problem.warning(
                file,
                f"$.motor_engine_{role}_config.engine_config.kv-events-config",
                "missing while scheduler_type is kv_cache_affinity: these engines do not tell what they cache",
                suggestion='add {"publisher": "zmq", "enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}',
            )


def kv_pool(user: UserConfig, file: str) -> Iterator[Problem]:
    """A pool needs to know when it is full."""
    pool = user.kv_cache_pool_config
    if pool is None or not pool.model_fields_set | set(pool.model_extra or {}):
        return
    for key in ("eviction_high_watermark_ratio", "eviction_ratio"):
        if getattr(pool, key) is None:
            yield Problem.error(file, f"$.kv_cache_pool_config.{key}", "missing", allowed="a number from 0 to 1")


def likely_typos(user: UserConfig, file: str) -> Iterator[Problem]:
    """Keys of these sections pass through, but one that is nearly a known one is probably that."""
    for name, section in (
        ("kv_cache_pool_config", user.kv_cache_pool_config),
        ("kv_conductor_config", user.kv_conductor_config),
    ):
        if section is None:
            continue
        for key, value in (section.model_extra or {}).items():
            close = nearest(key, type(section).model_fields)
            if close is not None:
                yield Problem.warning(
                    file,
                    json_path((name, key)),
                    "passed on as it is",
                    value=value,
                    suggestion=f"did you mean {close}?",
                )
