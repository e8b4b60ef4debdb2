"""Checks of `kv-events-config`: where an engine tells what it caches, and whether a KV Conductor could follow it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from pymotor.config import Problem, nearest
from pymotor.engines.checked import CheckedEngine

EVENTS = "kv_events_config"
_SAMPLE_PORTS = {"endpoint": 5557, "replay_endpoint": 6667}
_ADDRESS = re.compile(r"tcp://(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]|::):(\d{1,5})")
_LOCAL = ("ipc://", "inproc://")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_COUNT = (_is_count, "an integer, 0 or more")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "enable_kv_cache_events": (lambda value: isinstance(value, bool), "true or false"),
    "publisher": (lambda value: value in ("zmq", "null", None), '"zmq" or "null"'),
    "buffer_steps": _COUNT,
    "hwm": _COUNT,
    "max_queue_size": _COUNT,
    "topic": (lambda value: isinstance(value, str), "a string"),
}
"""Those of vLLM's `KVEventsConfig` (0.32) but for its addresses, which SGLang's share."""


def events(engine: CheckedEngine) -> Iterator[Problem]:
    """Each key is one that engines know, and says what they understand."""
    config = engine.setting(EVENTS)
    for key, value in (config or {}).items():
        if key in _SAMPLE_PORTS:
            yield from _address(engine, key, value)
        elif key in _FIELDS:
            is_right, allowed = _FIELDS[key]
            if not is_right(value):
                yield engine.error("not understood by engines", EVENTS, key, allowed=allowed)
        else:
            yield _unknown(engine, key)


def _address(engine: CheckedEngine, key: str, value: Any) -> Iterator[Problem]:
    do = f'write "tcp://*:{_SAMPLE_PORTS[key]}"'
    if key == "replay_endpoint" and not value and not isinstance(value, (bool, int)):
        return  # none
    if isinstance(value, str) and value.startswith(_LOCAL):
        yield engine.warning("a KV Conductor follows tcp:// only", EVENTS, key, do=do)
        return
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) > 65535:
        yield engine.error("no address that engines can publish at", EVENTS, key, allowed="tcp://HOST:PORT", do=do)


def _unknown(engine: CheckedEngine, key: str) -> Problem:
    close = nearest(key, (*_FIELDS, *_SAMPLE_PORTS))
    if close is not None:
        return engine.error("engines know no such key, and do not start", EVENTS, key, do=f"did you mean {close}?")
    return engine.warning("vLLM 0.32 knows no such key, and does not start with one", EVENTS, key, do="remove it")
