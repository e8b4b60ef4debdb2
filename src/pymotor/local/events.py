"""What `pymotor up` has to say, as data: the terminal, `--json` and the foreground of `--detach` show the same."""

from __future__ import annotations

from enum import Enum

import msgspec


class ProcessState(str, Enum):
    """What became of one process of the fleet."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    EXITED = "exited"
    STOPPED = "stopped"


class Replaced(msgspec.Struct, tag="replaced", tag_field="event", frozen=True):
    """`--engine` put something in another's place."""

    where: str
    """The JSON path in user_config.json."""
    old: str
    new: str


class Note(msgspec.Struct, tag="note", tag_field="event", frozen=True):
    """Worth knowing."""

    message: str
    severity: str = "info"
    """`info`, `warning` or `error`."""


class ProcessChanged(msgspec.Struct, tag="process", tag_field="event", frozen=True):
    """A process of the fleet is in another state now."""

    name: str
    state: ProcessState
    seconds: float
    """Since `pymotor up` began."""
    detail: str = ""


class Ready(msgspec.Struct, tag="ready", tag_field="event", frozen=True, kw_only=True):
    """The fleet answers."""

    name: str
    url: str
    management_url: str
    dashboard_url: str = ""
    """Empty: the dashboard is off."""
    observability_url: str
    models: tuple[str, ...]
    seconds: float
    curl: str
    """A request to paste into a shell."""


class Answered(msgspec.Struct, tag="answered", tag_field="event", frozen=True):
    """The answer to the first request (`--first-request`)."""

    text: str
    server_timing: str
    seconds: float


class Failed(msgspec.Struct, tag="failed", tag_field="event", frozen=True):
    """The fleet is not up, or no more; everything has been stopped when this is said."""

    reason: str
    """With the failing process's last log lines, where there is one."""


class Stopping(msgspec.Struct, tag="stopping", tag_field="event", frozen=True):
    """The fleet is being stopped."""

    reason: str


class Stopped(msgspec.Struct, tag="stopped", tag_field="event", frozen=True):
    """No process of the fleet is left."""

    seconds: float


Event = Replaced | Note | ProcessChanged | Ready | Answered | Failed | Stopping | Stopped

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> str:
    """The event as one line of JSON."""
    return msgspec.json.encode(event).decode()


def decode_event(line: bytes | str) -> Event:
    """An event from its line. Raises `msgspec.MsgspecError` when it is none."""
    return _decoder.decode(line)
