"""Who learns where a prompt went."""

from __future__ import annotations

from typing import Protocol

from pymotor.coordinator.affinity.conductor_client import ConductorClient
from pymotor.coordinator.affinity.text_prefixes import TextPrefixes, TextTrail


class Told(Protocol):
    """Who is to know where a prompt went."""

    def routed(self, endpoint_id: str) -> None:
        """It was sent to this endpoint."""

    def in_vain(self, endpoint_id: str) -> None:
        """It was, and the endpoint did not answer it."""


class ToldConductor:
    """The conductor that was asked about the prompt."""

    __slots__ = ("_conductor", "_number")

    def __init__(self, conductor: ConductorClient, number: int) -> None:
        """`number` is the question's."""
        self._conductor = conductor
        self._number = number

    def routed(self, endpoint_id: str) -> None:
        """See `Told`."""
        self._conductor.routed(self._number, endpoint_id)

    def in_vain(self, endpoint_id: str) -> None:
        """See `Told`."""
        self._conductor.routed(self._number, endpoint_id, in_vain=True)


class ToldTexts:
    """This worker's own memory of texts."""

    __slots__ = ("_texts", "_trail")

    def __init__(self, texts: TextPrefixes, trail: TextTrail) -> None:
        self._texts = texts
        self._trail = trail

    def routed(self, endpoint_id: str) -> None:
        """See `Told`."""
        self._texts.routed(self._trail, endpoint_id)

    def in_vain(self, endpoint_id: str) -> None:
        """Texts are not known to be anywhere, only to have been sent there, so nothing changes."""
