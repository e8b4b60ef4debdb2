"""What the supervisor and a worker say to each other over their socket pair.

Each message is four bytes of length, big-endian, and one of the structs below as MessagePack.
"""

from __future__ import annotations

import struct

import msgspec

from pymotor.coordinator.keys.api_key import ApiKey
from pymotor.coordinator.settings import Settings
from pymotor.fleet import FleetSnapshot

Age = tuple[int, int]
"""Epoch and version of a snapshot: the greater, the newer."""


class WorkerStart(msgspec.Struct, tag="start", frozen=True, kw_only=True):
    """First word of the supervisor: all a worker needs to begin. The ledger's descriptor is inherited."""

    settings: Settings
    host: str
    port: int
    column: int
    columns: int
    ledger_rows: int
    log_level: str = "INFO"
    operator_paths: tuple[str, ...] = ()
    """Paths of the inference port that the supervisor answers."""
    keys: tuple[ApiKey, ...] = ()
    """Where keys are asked for, those that are good."""


class FleetUpdate(msgspec.Struct, tag="fleet", frozen=True, kw_only=True):
    """A new snapshot and the ledger row and generation of each endpoint id in it."""

    snapshot: FleetSnapshot
    rows: dict[str, tuple[int, int]]

    @property
    def age(self) -> Age:
        """By which updates are compared."""
        return (self.snapshot.epoch, self.snapshot.version)


class SettingsUpdate(msgspec.Struct, tag="settings", frozen=True, kw_only=True):
    """Requests that begin from now on have these settings, and the log this level."""

    number: int
    """Counts how often they were changed since the Coordinator's start."""
    settings: Settings
    log_level: str


class KeysUpdate(msgspec.Struct, tag="keys", frozen=True, kw_only=True):
    """These are the good keys from now on."""

    keys: tuple[ApiKey, ...]


class CallbackPorts(msgspec.Struct, tag="callback ports", frozen=True, kw_only=True):
    """Where each worker takes callbacks of decode engines, by its number."""

    ports: dict[int, int]


class Ping(msgspec.Struct, tag="ping", frozen=True, kw_only=True):
    """The supervisor wants to hear that the worker is not hung."""


class ExplainRequest(msgspec.Struct, tag="explain?", frozen=True, kw_only=True):
    """Why does a request go where it goes: one of a moment ago, or one that would come now."""

    number: int
    request_id: str = ""
    """As the client or an answer calls it; empty: the newest. Without `path` only."""
    path: str = ""
    """Of a request that is not sent; empty: one that was."""
    body: bytes = b""
    headers: dict[str, str] = {}
    """Of it, by name in lower case."""


class FinishedQuestion(msgspec.Struct, tag="finished?", frozen=True, kw_only=True):
    """What has become of requests that are over, for the dashboard."""

    number: int
    after: float = 0.0
    """Only those that ended later; seconds since 1970."""
    id: str = ""
    """All there is to tell of this one; empty: something of all that are kept."""


class OperatorReply(msgspec.Struct, tag="operator reply", frozen=True, kw_only=True):
    """Answer to the `OperatorRequest` of the same number."""

    number: int = 0
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    header_lines: bytes = b""
    """Whole lines, each with its end."""


class Drain(msgspec.Struct, tag="drain", frozen=True, kw_only=True):
    """Accept nothing new, finish what runs within `grace` seconds, then end."""

    grace: float


class Listening(msgspec.Struct, tag="listening", frozen=True, kw_only=True):
    """The worker accepts requests."""


class FleetTaken(msgspec.Struct, tag="fleet taken", frozen=True, kw_only=True):
    """The worker routes by the snapshot of this age: whatever begins from now on begins where that one allows it."""

    age: Age


class SettingsTaken(msgspec.Struct, tag="settings taken", frozen=True, kw_only=True):
    """Whatever begins from now on begins with the settings of this number."""

    number: int


class CallbackPort(msgspec.Struct, tag="callback port", frozen=True, kw_only=True):
    """The worker takes callbacks of decode engines here."""

    port: int


class Pong(msgspec.Struct, tag="pong", frozen=True, kw_only=True):
    """Answer to `Ping`."""


class ExplainReply(msgspec.Struct, tag="explain", frozen=True, kw_only=True):
    """Answer to the `ExplainRequest` or `FinishedQuestion` of the same number."""

    number: int
    status: int
    """404: not known to this worker."""
    body: bytes
    """JSON: an `Explanation`, a `Timeline`, a list of `FinishedRequest`, or an error object."""


class OperatorRequest(msgspec.Struct, tag="operator?", frozen=True, kw_only=True):
    """A client of the inference port asked for a path that the supervisor answers."""

    number: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes
    peer: str
    """The client's address; empty where it is not known."""
    reached_at: str
    """The address of ours that it dialled; likewise."""


ToWorker = (
    WorkerStart
    | SettingsUpdate
    | FleetUpdate
    | KeysUpdate
    | CallbackPorts
    | Ping
    | ExplainRequest
    | FinishedQuestion
    | OperatorReply
    | Drain
)
ToSupervisor = Listening | FleetTaken | SettingsTaken | CallbackPort | Pong | ExplainReply | OperatorRequest

_encoder = msgspec.msgpack.Encoder()
_length = struct.Struct(">I")


def frame(message: ToWorker | ToSupervisor) -> bytes:
    """The message as it goes over the wire."""
    body = _encoder.encode(message)
    return _length.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages."""

    def __init__(self, to_worker: bool) -> None:
        """`to_worker` says which side's messages arrive."""
        kinds = ToWorker if to_worker else ToSupervisor
        self._decoder: msgspec.msgpack.Decoder[ToWorker | ToSupervisor] = msgspec.msgpack.Decoder(kinds)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[ToWorker | ToSupervisor]:
        """All messages that are complete after `data`."""
        self._buffer += data
        messages: list[ToWorker | ToSupervisor] = []
        while len(self._buffer) >= _length.size:
            (size,) = _length.unpack_from(self._buffer)
            if len(self._buffer) < _length.size + size:
                break
            messages.append(self._decoder.decode(bytes(self._buffer[_length.size : _length.size + size])))
            del self._buffer[: _length.size + size]
        return messages
