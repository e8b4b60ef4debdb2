"""A line for each request: what was asked for, which way it went, how long that took, how it ended. Never prompts,
answers, headers or keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.settings import RequestLogSettings
from pymotor.telemetry.line_writer import LineWriter, RotatingFiles
from pymotor.telemetry.logs import one_line

_LONGEST_TEXT = 256
"""Characters of what a client chose itself."""
_WENT_AWAY = 499


class LoggedLeg(msgspec.Struct, frozen=True):
    """A leg that did its part."""

    leg: str
    instance: str
    seconds: float


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line; docs/request-log.md says what each means. What is empty or 0 is left out."""

    time: float | str
    """In the line ISO 8601 with milliseconds and zone."""
    request_id: str = ""
    engine_request_id: str = ""
    client: str = ""
    worker: int
    method: str
    path: str
    model: str = ""
    stream: bool = False
    status: int
    outcome: str
    reason: str = ""
    seconds: float
    first_token_seconds: float | None = None
    legs: Sequence[LoggedLeg] = ()
    legs_left_out: int = 0
    spared: Sequence[str] = ()
    request_bytes: int = 0
    media_items: int = 0
    answer_bytes: int = 0
    answer_events: int = 0


class RequestLog:
    """Writes the lines of one worker; `close` it."""

    def __init__(self, settings: RequestLogSettings, worker: int, workers: int, instruments: Instruments) -> None:
        """`worker`: the number of this one of `workers`. Raises `OSError` when its file cannot be opened."""
        self._worker = worker
        self._as_json = settings.form == "json"
        self._line_length = settings.line_length
        self._lines: LineWriter[LoggedRequest] = LineWriter(
            _files(settings, worker, workers) if settings.directory else None,
            self._line,
            overflowed=instruments.log_queue_full.add,
            failed=instruments.log_write_failed.add,
        )

    def note(
        self,
        client: ClientConnection | None,
        request: ClientRequest,
        path: str,
        status: int,
        seconds: float,
        context: Context | None = None,
        reason: str = "",
    ) -> None:
        """A request is over; `path` as metrics name it, `reason` a word for why it failed."""
        view = None if context is None else context.view
        peer = None if client is None else client.transport.get_extra_info("peername")
        self._lines.put(
            LoggedRequest(
                time=time.time(),
                request_id=_text(request.headers.get(b"x-request-id", b"")),
                engine_request_id="" if context is None else context.leg_id.decode(),
                client=peer[0] if peer else "",
                worker=self._worker,
                method=_text(request.method),
                path=path,
                model="" if view is None else view.model[:_LONGEST_TEXT],
                stream=view is not None and view.stream,
                status=status,
                outcome=outcome_of(status),
                reason=reason,
                seconds=round(seconds, 6),
                first_token_seconds=None if context is None else context.first_token_seconds,
                legs=() if context is None else [LoggedLeg(leg, name, ms / 1000) for leg, name, ms in context.legs],
                spared=() if context is None else context.failed,
                request_bytes=len(request.body) if view is None else view.size,
                media_items=0 if context is None else context.media_items,
                answer_bytes=0 if context is None else context.answer_bytes,
                answer_events=0 if context is None else context.answer_events,
            )
        )

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._lines.close()

    def _line(self, entry: LoggedRequest) -> str:
        """In the writer's thread: the line of a request, without legs where it would be too long with them."""
        at = datetime.fromtimestamp(float(entry.time)).astimezone().isoformat(timespec="milliseconds")
        entry = msgspec.structs.replace(entry, time=at)
        line = self._formatted(entry)
        if len(line) > self._line_length:
            line = self._formatted(msgspec.structs.replace(entry, legs=(), legs_left_out=len(entry.legs)))
        return line

    def _formatted(self, entry: LoggedRequest) -> str:
        return msgspec.json.encode(entry).decode() if self._as_json else as_text(entry)


def as_text(entry: LoggedRequest) -> str:
    """`TIME METHOD PATH STATUS OUTCOME name=value …`, values with spaces or quotes as JSON strings."""
    fields = msgspec.to_builtins(entry)
    first = [str(fields.pop(name)) for name in ("time", "method", "path", "status", "outcome")]
    if entry.legs:
        fields["legs"] = ",".join(f"{leg.leg}:{leg.instance}:{leg.seconds:.4f}" for leg in entry.legs)
    if entry.spared:
        fields["spared"] = ",".join(entry.spared)
    return one_line(" ".join([*first, *(f"{name}={_value(value)}" for name, value in fields.items())]))


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return msgspec.json.encode(text).decode() if any(mark in text for mark in ' "=') else text


def outcome_of(status: int) -> str:
    """`answered`, `client_gone`, `refused` or `failed`, by the status as metrics have it."""
    if status < 400:
        return "answered"
    if status == _WENT_AWAY:
        return "client_gone"
    return "refused" if status < 500 else "failed"


def _text(raw: bytes) -> str:
    return raw[:_LONGEST_TEXT].decode("utf-8", "replace")


def _files(settings: RequestLogSettings, worker: int, workers: int) -> RotatingFiles:
    share = settings.total_size // workers
    size = max(1, min(settings.rotation_size, share // 2))
    return RotatingFiles(
        path=str(Path(settings.directory) / f"requests-{worker}.log"),
        size=size,
        kept=max(1, min(settings.rotation_count, share // size - 1)),
        compress_level=settings.compress_level,
    )
