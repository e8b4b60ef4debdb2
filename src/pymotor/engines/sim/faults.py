"""Failing on purpose: what is wanted, how often, and whose turn it is.

A specification is `kind` or `kind:key=value,key=value`, for example `hang:count=1` or
`slow:seconds=2,probability=0.1,path=/v1/chat/completions`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """Where a fault strikes."""

    REQUEST = "request"
    """A client's request for an answer; `path` can narrow it."""
    EMBEDDING_SAVED = "embedding saved"
    EMBEDDING_MOVED = "embedding moved"
    KV_FETCHED = "KV fetched"
    KV_LEASED = "KV leased"
    KV_PUSHED = "KV pushed"
    CALLBACK = "callback"
    STEP = "step"
    KV_EVENTS = "KV events"
    KV_EVENTS_REPLAYED = "KV events replayed"


KINDS: dict[str, tuple[Stage, str]] = {
    "refuse": (Stage.REQUEST, "the request's connection is reset and the port closed for `seconds`"),
    "hang": (Stage.REQUEST, "no answer, ever"),
    "slow": (Stage.REQUEST, "`seconds` pass before the request is looked at"),
    "reset": (Stage.REQUEST, "the connection is reset before any byte"),
    "error": (Stage.REQUEST, "an error object with status `code`"),
    "late_error": (Stage.REQUEST, "200 and a role event, then an error event; 500 where nothing is streamed"),
    "cut": (Stage.REQUEST, "the connection is reset after `after` events, or half an answer that is not streamed"),
    "stall": (Stage.REQUEST, "silence after `after` events"),
    "exit": (Stage.REQUEST, "the process ends after `after` events"),
    "recomputed": (Stage.REQUEST, "the answer ends after `after` tokens with `stop_reason: recomputed`"),
    "split": (Stage.REQUEST, "events arrive in pieces of `bytes`"),
    "merge": (Stage.REQUEST, "`events` events arrive in one piece"),
    "die": (Stage.REQUEST, "the engine core dies with the request"),
    "ec_drop": (Stage.EMBEDDING_SAVED, "the embedding does not reach the store"),
    "ec_wrong": (Stage.EMBEDDING_SAVED, "the store gets another item's embedding"),
    "ec_hang": (Stage.EMBEDDING_MOVED, "an embedding that is pushed or fetched never arrives"),
    "ec_push_lost": (Stage.EMBEDDING_MOVED, "encode answers as if it had pushed the embedding"),
    "kv_drop": (Stage.KV_FETCHED, "decode gets blocks that were never written"),
    "kv_stale": (Stage.KV_FETCHED, "decode gets the last block as it was before"),
    "kv_swap": (Stage.KV_FETCHED, "decode gets the blocks of the request fetched before"),
    "kv_fail": (Stage.KV_FETCHED, "the transfer fails"),
    "kv_hang": (Stage.KV_FETCHED, "the transfer never ends"),
    "kv_push_lost": (Stage.KV_PUSHED, "prefill answers as if it had handed over, and decode waits"),
    "callback_late": (Stage.CALLBACK, "decode calls back `seconds` too late"),
    "callback_twice": (Stage.CALLBACK, "decode calls back twice at once"),
    "callback_never": (Stage.CALLBACK, "decode does not call back"),
    "callback_unknown": (Stage.CALLBACK, "decode calls back with an id that nobody knows"),
    "kv_late": (Stage.KV_LEASED, "the lease ends at once and the blocks are reused: any handoff is a late one"),
    "preempt": (Stage.STEP, "the youngest running request is preempted"),
    "kv_events_drop": (Stage.KV_EVENTS, "a message is numbered and kept for replay, but not sent"),
    "kv_events_twice": (Stage.KV_EVENTS, "a message is sent twice"),
    "kv_events_restart": (Stage.KV_EVENTS, "numbers start again at 0 and nothing older is kept for replay"),
    "kv_events_stall": (Stage.KV_EVENTS, "nothing is sent for `seconds`, then all of it in order"),
    "kv_replay_refuse": (Stage.KV_EVENTS_REPLAYED, "a request for past messages gets no answer"),
}


@dataclass
class Fault:
    """One fault and how often it still strikes."""

    kind: str
    count: int | None = None
    """Times left; None is without end."""
    probability: float = 1.0
    path: str = ""
    """Only requests whose path begins so."""
    seconds: float = 1.0
    after: int = 1
    code: int = 500
    bytes: int = 7
    events: int = 3

    @property
    def stage(self) -> Stage:
        """Where it strikes."""
        return KINDS[self.kind][0]


def parse_fault(text: str) -> Fault:
    """A fault from its specification. Raises `ValueError` that names what is allowed."""
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown fault {kind!r}; known: {', '.join(KINDS)}")
    fault = Fault(kind)
    for setting in filter(None, rest.split(",")):
        name, equals, value = setting.partition("=")
        try:
            _set(fault, name, value)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{setting!r} in fault {text!r}: use count, probability, path, seconds, after, code, bytes or events "
                f"with a value that fits"
            ) from error
        if not equals:
            raise ValueError(f"{setting!r} in fault {text!r} needs a value")
    return fault


def _set(fault: Fault, name: str, value: str) -> None:
    convert = {"probability": float, "seconds": float, "path": str}.get(name, int)
    if name not in ("count", "probability", "path", "seconds", "after", "code", "bytes", "events"):
        raise KeyError(name)
    converted = convert(value)
    if not isinstance(converted, str) and converted < 0:
        raise ValueError(value)
    setattr(fault, name, converted)


class Faults:
    """The faults of one engine."""

    def __init__(self, faults: Iterable[Fault] = (), chance: random.Random | None = None) -> None:
        self._faults = list(faults)
        self._chance = chance or random.Random()

    def add(self, fault: Fault) -> None:
        """One more."""
        self._faults.append(fault)

    def clear(self) -> None:
        """None from now on."""
        self._faults.clear()

    @property
    def pending(self) -> list[Fault]:
        """Those that can still strike."""
        return [fault for fault in self._faults if fault.count != 0]

    def take(self, stage: Stage, path: str = "") -> dict[str, Fault]:
        """The faults that strike now, by kind; each counts as used."""
        struck: dict[str, Fault] = {}
        if not self._faults:
            return struck
        for fault in self._faults:
            if fault.stage is not stage or fault.count == 0 or not path.startswith(fault.path):
                continue
            if fault.kind in struck or (fault.probability < 1 and self._chance.random() >= fault.probability):
                continue
            if fault.count is not None:
                fault.count -= 1
            struck[fault.kind] = fault
        return struck
