"""Relays of streams that can be carried on: what the client sees is less than what the engine sends.

Hot path. The difference to `Relay`: token ids are taken out of the events and kept, and a stream that breaks off
after content is a failed leg, not an error event: whoever runs the leg decides how the client's stream goes on.
"""

from __future__ import annotations

from typing import Protocol

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.relay import GROWTH, Relay
from pymotor.coordinator.http.exchange import UpstreamError
from pymotor.coordinator.http.framing import chunk
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer
from pymotor.coordinator.scheduling.target import Held, Reservation, Target


class _Answer(Protocol):
    """What turns an engine's events into the client's."""

    @property
    def verdict(self) -> UpstreamError | None: ...

    def take(self, events: bytes) -> bytes: ...


class KeepingRelay(Relay):
    """Writes the beginning of an answer to the client and keeps what is needed to carry it on."""

    __slots__ = ("_so_far",)
    _plain = False

    def __init__(
        self,
        context: Context,
        leg: str,
        target: Target,
        first_content: Reservation | Held | None,
        so_far: AnswerSoFar | RepeatableAnswer,
    ) -> None:
        super().__init__(context, leg, target, first_content)
        self._so_far = so_far

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        if self.committed and self._framed and not self._tail and wire.endswith(b"}\n\n\r\n"):
            seen = self._so_far.take_single(wire, start, len(wire) - 2)
            if seen is not None:
                self._ends_well = False
                self._ungrown += 1
                if self._ungrown >= GROWTH:
                    self._grow()
                try:
                    self._write(b"%x\r\n%b\r\n" % (len(seen), seen))
                except RuntimeError:
                    # uvloop, when the client has just gone: its connection's end cancels this request next.
                    return
                return
        self.on_payload(wire[start:-2])

    def _on_events(self, data: bytes) -> None:
        self._take(data, self._so_far)

    def _take(self, data: bytes, answer: _Answer) -> None:
        seen = answer.take(data)
        if seen:
            super()._on_events(seen)
        if answer.verdict is not None and not self.done.done():
            self._give_up(answer.verdict)

    def _break_off(self, error: UpstreamError) -> None:
        self.done.set_exception(error)


class RestRelay(KeepingRelay):
    """Writes the rest of an answer behind its beginning."""

    __slots__ = ("_rest",)

    def __init__(
        self,
        context: Context,
        leg: str,
        target: Target,
        first_content: Reservation | Held | None,
        so_far: AnswerSoFar | RepeatableAnswer,
        rest: _Answer,
    ) -> None:
        """`context` is that of the request for the rest."""
        super().__init__(context, leg, target, first_content, so_far)
        self._rest = rest

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        self.on_payload(wire[start:-2])

    def _on_events(self, data: bytes) -> None:
        self._take(data, self._rest)

    def _begin(self, data: bytes) -> None:
        self._context.committed = True
        self._client.write(chunk(data) if self._framed else data)
