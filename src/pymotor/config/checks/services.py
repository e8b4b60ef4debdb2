"""The services beside the fleet: KV conductor and KV pool."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pymotor.config.engine import EngineSection
from pymotor.config.problems import ABSENT, Problem, json_path, nearest
from pymotor.config.user import UserConfig

_WHILE = "while scheduler_type is kv_cache_affinity"


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
            "missing while scheduler_type is kv_cache_affinity: without the index beginnings of texts are compared, "
            "and nothing is known of what engines cache",
            suggestion='add "kv_conductor_config": {"http_server_port": 13333}',
        )
    if user.motor_coordinator_config.prefill_kv_event_config.conductor_service == "":
        yield Problem.warning(
            file,
            "$.motor_coordinator_config.prefill_kv_event_config.conductor_service",
            f"empty {_WHILE}: Coordinators ask no KV Conductor, not that of kv_conductor_config either; beginnings of "
            "texts are compared, and nothing is known of what engines cache",
            value="",
            suggestion="remove it",
        )
    for role in ("prefill", "union"):
        section = user.engine_section(role)
        if user.instance_count(role) and section is not None:
            yield from _telling(section, f"$.motor_engine_{role}_config.engine_config", file)


def _telling(section: EngineSection, stem: str, file: str) -> Iterator[Problem]:
    """Why engines of this section tell nothing, or have nothing to tell."""
    if section.options.get("kv_events_config") is None:
        yield Problem.warning(
            file,
            f"{stem}.kv-events-config",
            "missing while scheduler_type is kv_cache_affinity: these engines do not tell what they cache",
            suggestion='add {"publisher": "zmq", "enable_kv_cache_events": true, "endpoint": "tcp://*:5557",'
            ' "replay_endpoint": "tcp://*:6667"}',
        )
    events = events_of(section)
    place = f"{stem}.{section.written('kv_events_config')}"
    if events is not None and events.get("publisher") == "null":
        yield Problem.warning(
            file,
            f"{place}.publisher",
            f"these engines do not tell what they cache, {_WHILE}",
            value="null",
            suggestion='write "zmq"',
        )
    # SGLang has no such key: there the section alone is enough
    if events is not None and section.engine_type != "sglang" and events.get("enable_kv_cache_events") is not True:
        yield Problem.warning(
            file,
            f"{place}.enable_kv_cache_events",
            f"not true: these engines do not tell what they cache, {_WHILE}",
            value=events.get("enable_kv_cache_events", ABSENT),
            suggestion="write true",
        )
    if events is not None and events.get("publisher") != "null" and not events.get("replay_endpoint"):
        yield Problem.warning(
            file,
            f"{place}.replay_endpoint",
            f"missing {_WHILE}: a KV Conductor that starts late, or misses something, learns only from what these "
            "engines tell next",
            suggestion='write "tcp://*:6667"',
        )
    for option, off in (("enable_prefix_caching", False), ("no_enable_prefix_caching", True)):
        if section.options.get(option) is off:
            yield Problem.warning(
                file,
                f"{stem}.{section.written(option)}",
                f"these engines cache no prefixes, {_WHILE}",
                value=off,
                suggestion="remove it, or choose another scheduler_type, as load_balance",
            )


def events_of(section: EngineSection) -> Mapping[str, Any] | None:
    """`kv-events-config` of an engine, which may be written as JSON text; None where there is no object."""
    events = section.options.get("kv_events_config")
    if isinstance(events, str):
        try:
            events = json.loads(events)
        except (ValueError, RecursionError):
            # what is no object is told of where engines are checked
            return None
    return events if isinstance(events, dict) else None


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
