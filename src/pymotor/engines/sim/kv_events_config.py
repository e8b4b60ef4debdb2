"""`--kv-events-config` of vLLM: whether and where what happens to the prefix cache is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Form = Literal["map", "array"]
"""Of an event in a message: since vLLM 0.32, and before."""


class KVEventsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """vLLM's fields and defaults (`vllm/config/kv_events.py`, 0.32)."""

    enable_kv_cache_events: bool = False
    publisher: Literal["null", "zmq"] | None = None
    """None: `zmq` where events are enabled."""
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    """Messages kept for replay."""
    hwm: int = 100_000
    """Messages that ZeroMQ keeps for a subscriber that does not read; later ones are lost."""
    max_queue_size: int = 100_000
    """Has no effect here: the simulated engine sends at once."""
    topic: str = ""

    @property
    def enabled(self) -> bool:
        """Whether anything is sent."""
        return self.enable_kv_cache_events and self.publisher != "null"


def read_kv_events_config(value: Mapping[str, Any]) -> KVEventsConfig:
    """The configuration in a JSON object. Raises `ValueError` that names the field."""
    try:
        config = msgspec.convert(value, KVEventsConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"--kv-events-config: {error}") from error
    if config.publisher is None:
        config = msgspec.structs.replace(config, publisher="zmq" if config.enable_kv_cache_events else "null")
    return config


def binds(endpoint: str) -> bool:
    """Whether vLLM listens at a publisher's endpoint; it connects to all others."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


def of_rank(endpoint: str, rank: int) -> str:
    """The endpoint of a data-parallel rank: its port is shifted by the rank, 0 stays 0.

    Raises `ValueError` for an endpoint that cannot be shifted, as vLLM does.
    """
    if rank == 0:
        return endpoint
    if "inproc" in endpoint:
        return f"{endpoint}_dp{rank}"
    match = re.fullmatch(r"(tcp://.*):(\d+)", endpoint)
    if match is None:
        raise ValueError(f"--kv-events-config: {endpoint} is no endpoint of several ranks: use tcp:// with a port")
    port = int(match[2])
    return f"{match[1]}:{port + rank if port else 0}"
