"""Relays of streams whose usage says what the engine had cached, for requests of which something was expected."""

from __future__ import annotations

from pymotor.coordinator.affinity.cached_tokens import says_cached_tokens
from pymotor.coordinator.flows.keeping_relay import KeepingRelay
from pymotor.coordinator.flows.relay import Relay


class ComparingRelay(Relay):
    """Has the request's own policy compare. Usage that came in two pieces is passed over."""

    __slots__ = ()
    _plain = False

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        if says_cached_tokens(wire):
            self.on_payload(wire[start:-2])
        else:
            super().on_chunk(wire, start)

    def on_payload(self, payload: bytes) -> None:
        """See `Receiver`."""
        choice = self._context.choice
        if choice is not None and says_cached_tokens(payload):
            choice.streamed(self._target, payload)
        super().on_payload(payload)


class ComparingKeepingRelay(ComparingRelay, KeepingRelay):
    """The same of a stream that can be carried on."""

    __slots__ = ()
