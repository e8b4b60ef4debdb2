"""Sends KV events over ZeroMQ as vLLM does, sends past ones again on request, and fails where faults say so.

A message has three frames: topic, sequence number (8 bytes, big endian, from 0 at each start) and payload. Whoever
sends an empty frame and a sequence number to the replay endpoint gets, each behind an empty frame, the messages from
this number on that are still kept, and then one without a topic and payload whose number is eight bytes of 0xFF.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from pymotor.engines.sim.cache_events import CacheEvent
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.kv_event_encoding import EventEncoder
from pymotor.engines.sim.kv_events_config import KVEventsConfig, binds, of_rank

log = logging.getLogger("pymotor.sim")

_END = b"\xff" * 8


class KVEventPublisher:
    """One data-parallel rank's publisher. All methods belong to the event loop's thread."""

    def __init__(
        self, config: KVEventsConfig, encoder: EventEncoder, faults: Faults, *, rank: int, node_address: str
    ) -> None:
        """`node_address`: where `tcp://*:0` listens. Raises `ValueError` for an endpoint the rank cannot have."""
        self._config = msgspec.structs.replace(
            config,
            endpoint=of_rank(config.endpoint, rank),
            replay_endpoint=of_rank(config.replay_endpoint, rank) if config.replay_endpoint else None,
        )
        self._encoder = encoder
        self._faults = faults
        self._rank = rank
        self._node_address = node_address
        self._topic = config.topic.encode()
        self._sequence = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._held: deque[bytes] = deque()
        self._stalled: asyncio.TimerHandle | None = None
        self._context: zmq.Context[Any] | None = None
        self._publisher: zmq.Socket[bytes] | None = None
        self._replaying: asyncio.Task[None] | None = None
        self.ports: dict[str, int] = {}
        """Ports that are listened on, by what they are for."""

    def start(self) -> None:
        """Open the sockets. Raises `OSError` when a port is taken or an endpoint is none."""
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._publisher.set_hwm(self._config.hwm)
        endpoint, replay_endpoint = self._config.endpoint, self._config.replay_endpoint
        if binds(endpoint):
            endpoint = self._bind(self._publisher, endpoint, "kv_events")
        else:
            _open(self._publisher.connect, endpoint)
        if replay_endpoint is not None:
            router = zmq.asyncio.Socket(self._context, zmq.ROUTER)
            try:
                replay_endpoint = self._bind(router, replay_endpoint, "kv_replay")
            except OSError:
                router.close(linger=0)
                raise
            self._replaying = asyncio.get_running_loop().create_task(self._replay(router))
        self._config = msgspec.structs.replace(self._config, endpoint=endpoint, replay_endpoint=replay_endpoint)

    async def stop(self) -> None:
        """Close the sockets; what is not sent is lost."""
        if self._stalled is not None:
            self._stalled.cancel()
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.wait([self._replaying])
        if self._publisher is not None:
            self._publisher.close(linger=0)
        if self._context is not None:
            self._context.term()

    @property
    def sources(self) -> dict[str, Any]:
        """What `GET /kv_event_sources` says: the configuration as it came true, by rank."""
        return {str(self._rank): msgspec.to_builtins(self._config)}

    def publish(self, events: Sequence[CacheEvent]) -> None:
        """Send the events of one step; nothing for none."""
        if not events:
            return
        self._held.append(self._encoder.message(time.time(), events, self._rank))
        if self._stalled is None:
            self._send_held()

    def _send_held(self) -> None:
        self._stalled = None
        while self._held:
            struck = self._faults.take(Stage.KV_EVENTS)
            if "kv_events_stall" in struck:
                loop = asyncio.get_running_loop()
                self._stalled = loop.call_later(struck["kv_events_stall"].seconds, self._send_held)
                return
            if "kv_events_restart" in struck:
                self._sequence = 0
                self._kept.clear()
            payload = self._held.popleft()
            self._kept.append((self._sequence, payload))
            if "kv_events_drop" not in struck:
                for _ in range(2 if "kv_events_twice" in struck else 1):
                    self._send(self._sequence, payload)
            self._sequence += 1

    def _send(self, sequence: int, payload: bytes) -> None:
        assert self._publisher is not None
        # never waits: a publisher drops what a subscriber's queue has no room for
        self._publisher.send_multipart((self._topic, sequence.to_bytes(8, "big"), payload))

    async def _replay(self, router: zmq.asyncio.Socket) -> None:
        with router:
            while True:
                frames = await router.recv_multipart()
                if len(frames) != 3:
                    log.warning("a replay request of %d frames was passed over", len(frames) - 1)
                elif "kv_replay_refuse" not in self._faults.take(Stage.KV_EVENTS_REPLAYED):
                    await self._send_kept(router, frames[0], int.from_bytes(frames[2], "big"))

    async def _send_kept(self, router: zmq.asyncio.Socket, client: bytes, first: int) -> None:
        for sequence, payload in list(self._kept):
            if sequence >= first:
                await router.send_multipart((client, b"", self._topic, sequence.to_bytes(8, "big"), payload))
        await router.send_multipart((client, b"", b"", _END, b""))

    def _bind(self, socket: zmq.Socket[Any], endpoint: str, name: str) -> str:
        """Listen; returns the endpoint as vLLM reports it."""
        if endpoint == "tcp://*:0":
            address = self._node_address
            if ":" in address:
                socket.setsockopt(zmq.IPV6, 1)
                address = f"[{address}]"
            _open(socket.bind, f"tcp://{address}:0")
            endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        else:
            _open(socket.bind, endpoint)
        port = socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        if port.isdecimal():
            self.ports[name] = int(port)
        return endpoint


def _open(action: Any, endpoint: str) -> None:
    try:
        action(endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"KV events cannot use {endpoint}: {error.strerror}; change it") from error
