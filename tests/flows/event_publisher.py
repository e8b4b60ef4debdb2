"""A publisher of KV events as engines are: PUB and ROUTER sockets of ZeroMQ, batches with numbers, a replay buffer.

It speaks vLLM's wire by itself, so that what is tested is the conductor's side of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from free_ports import free_port

TOPIC = b"kv-events"
END = b"\xff" * 8


class EventPublisher:
    """One rank of an engine. Use as a context manager; it can be stopped and started in between."""

    def __init__(
        self,
        *,
        replays: bool = True,
        buffer: int = 10_000,
        rank: int = 0,
        at_most: int | None = None,
        slowly: bool = False,
    ) -> None:
        """`buffer`: batches that it can replay; `at_most`: what of them comes through at once, as when the queue of
        the answering socket is full. `slowly`: it replays one batch a second, and never says the end."""
        self._at_most = at_most
        self._slowly = slowly
        self.port = free_port()
        self.replay_port: int | None = free_port() if replays else None
        self.rank = rank
        self.number = 0
        """Of the next batch."""
        self.asked: list[int] = []
        """From where on it was asked to replay."""
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer)
        self._lock = threading.Lock()
        self._running: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._context: zmq.Context[Any] | None = None
        self._publisher: zmq.Socket[Any] | None = None

    @property
    def address(self) -> str:
        """Of its events."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def replay_address(self) -> str | None:
        """Of its replays."""
        return f"tcp://127.0.0.1:{self.replay_port}" if self.replay_port is not None else None

    def __enter__(self) -> EventPublisher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, as a new engine: numbers begin at 0 and nothing is remembered."""
        self.number = 0
        self._buffer.clear()
        context = self._context = zmq.Context()
        self._publisher = context.socket(zmq.XPUB)
        self._publisher.bind(self.address)
        running = self._running = threading.Event()
        running.set()
        if self.replay_address is not None:
            replays = context.socket(zmq.ROUTER)
            replays.bind(self.replay_address)
            self._thread = threading.Thread(target=self._replay, args=(replays, running), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Be gone, as a crash would have it."""
        if self._context is None:
            return
        assert self._running is not None
        assert self._publisher is not None
        self._running.clear()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._publisher.close(0)
        self._context.term()
        self._context = None

    def wait_subscribed(self, seconds: float = 60.0) -> None:
        """Wait for a subscription that was not waited for yet."""
        assert self._publisher is not None
        ends = time.monotonic() + seconds
        while True:
            left = ends - time.monotonic()
            assert left > 0, "nobody subscribed"
            if self._publisher.poll(left * 1000) and self._publisher.recv()[:1] == b"\x01":
                return

    # -- what it says

    def publish(self, *events: dict[str, Any], heard: bool = True) -> int:
        """Send one batch; returns its number. `heard` False: it is lost on the way."""
        return self.publish_payload(msgspec.msgpack.encode([time.time(), list(events), self.rank]), heard=heard)

    def publish_payload(self, payload: bytes, *, heard: bool = True) -> int:
        """Likewise, any bytes."""
        with self._lock:
            number = self.number
            self.number += 1
            self._buffer.append((number, payload))
        if heard:
            self.send([TOPIC, number.to_bytes(8, "big"), payload])
        return number

    def repeat(self) -> None:
        """Send the last batch once more."""
        number, payload = self._buffer[-1]
        self.send([TOPIC, number.to_bytes(8, "big"), payload])

    def send(self, frames: Sequence[bytes]) -> None:
        """Send any message."""
        assert self._publisher is not None
        self._publisher.send_multipart(list(frames))

    def begin_again(self) -> None:
        """Count from 0 and forget, without breaking any connection."""
        with self._lock:
            self.number = 0
            self._buffer.clear()

    def _replay(self, replays: zmq.Socket[Any], running: threading.Event) -> None:
        while running.is_set():
            if not replays.poll(20):
                continue
            if self._slowly:
                self._replay_slowly(replays, running)
                continue
            who, _, start = replays.recv_multipart()
            first = int.from_bytes(start, "big")
            with self._lock:
                kept = list(self._buffer)
            asked = [[who, b"", TOPIC, number.to_bytes(8, "big"), kept] for number, kept in kept if number >= first]
            answers = [*asked, [who, b"", b"", END, b""]]
            for frames in answers[: self._at_most]:
                replays.send_multipart(frames)
            self.asked.append(first)
        replays.close(0)

    def _replay_slowly(self, replays: zmq.Socket[Any], running: threading.Event) -> None:
        """Answer one question until the next."""
        who, _, start = replays.recv_multipart()
        first = int.from_bytes(start, "big")
        self.asked.append(first)
        with self._lock:
            kept = [(number, payload) for number, payload in self._buffer if number >= first]
        for number, payload in kept:
            replays.send_multipart([who, b"", TOPIC, number.to_bytes(8, "big"), payload])
            ends = time.monotonic() + 1
            while time.monotonic() < ends:
                if not running.is_set() or replays.poll(20):
                    return


def stored(hashes: Sequence[int], tokens: Sequence[int], parent: int | None = None, **more: Any) -> dict[str, Any]:
    """Blocks of equal length; the tokens are those of all of them."""
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": parent,
        "token_ids": list(tokens),
        "block_size": len(tokens) // len(hashes),
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        **more,
    }


def removed(*hashes: int) -> dict[str, Any]:
    """These blocks are gone."""
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"}
