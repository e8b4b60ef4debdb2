"""A subscriber to an engine's KV events, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import zmq

WAIT_MILLISECONDS = 20_000
END = b"\xff" * 8


@dataclass(frozen=True)
class Message:
    """One message as it came."""

    topic: bytes
    sequence: int
    time: float
    events: list[Any]
    rank: int | None


def reachable(endpoint: str) -> str:
    """Where a program on this machine reaches what an engine says it listens on."""
    return endpoint.replace("*", "127.0.0.1")


def source(url: str, rank: int = 0) -> dict[str, Any]:
    """What an engine says of its events. Raises KeyError when it sends none."""
    found: dict[str, Any] = httpx.get(f"{url}/kv_event_sources", timeout=10).json()[str(rank)]
    return found


class Subscriber:
    """Reads messages in the order in which they come."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def next(self, wait: int = WAIT_MILLISECONDS) -> Message | None:
        """The next message, or None when none comes for so many milliseconds."""
        if not self._socket.poll(wait):
            return None
        return decoded(self._socket.recv_multipart())

    def events_until(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        """Events until there are enough. Raises AssertionError with those that came when no more do."""
        events: list[Any] = []
        while not enough(events):
            message = self.next()
            assert message is not None, f"only {events}"
            events += message.events
        return events


@contextmanager
def subscribed(endpoint: str, ask: Callable[[], object], topic: bytes = b"") -> Iterator[Subscriber]:
    """A subscriber whose subscription the engine knows of: `ask` makes it send something until something came."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.connect(reachable(endpoint))
        socket.subscribe(topic)
        for _ in range(100):
            ask()
            if socket.poll(200):
                break
        else:
            raise AssertionError(f"{endpoint} sends nothing")
        while socket.poll(500):
            socket.recv_multipart()
        yield Subscriber(socket)


def replayed(endpoint: str, first: int, wait: int = WAIT_MILLISECONDS) -> list[Message] | None:
    """The messages that are kept, from this number on; None when the engine does not answer."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(reachable(endpoint))
        socket.send_multipart((b"", first.to_bytes(8, "big")))
        messages = []
        while socket.poll(wait):
            empty, *frames = socket.recv_multipart()
            assert empty == b""
            if frames[1] == END:
                assert (frames[0], frames[2]) == (b"", b"")
                return messages
            messages.append(decoded(frames))
        return None


def decoded(frames: list[bytes]) -> Message:
    """A message from its three frames."""
    topic, sequence, payload = frames
    time, events, *rank = msgspec.msgpack.decode(payload)
    return Message(topic, int.from_bytes(sequence, "big"), time, events, rank[0] if rank else None)
