"""The Coordinator's side of a question over a socket: token ids in, frames to another process, choice out."""

from __future__ import annotations

import socket
import time
from typing import Any

import msgspec
import numpy as np

from prefix_index_parts.contenders import RULES, SLOT, TOKENS, packed
from prefix_index_parts.questions import Question
from pymotor.coordinator.scheduling.kv_affinity import choose_among_holders
from pymotor.fleet.prefix_queries import LENGTH_BYTES, PREFACE, FromConductor, Hello, PrefixQuery

SECONDS_PER_QUESTION = 0.01
"""Of one round."""
SOONER_COPIED = 1 << 15
"""Bytes, as the Coordinator has it."""
_CPU_TIME = 2
"""Linux: with a process id above it, the clock of that process's CPU time."""


class Asker:
    """One connection; `close` ends it. One question at a time, so that what it costs is all there is."""

    def __init__(self, port: int, process: int) -> None:
        """`process`: the id of the one that answers."""
        self._clock_of_answerer = ~process << 3 | _CPU_TIME
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(FromConductor).decode
        self._number = 0
        self._socket.sendall(PREFACE)
        self._send(Hello())
        self._receive()

    def choose(self, question: Question) -> tuple[int, int]:
        """The endpoint, and what it holds."""
        self._number += 1
        self._send(PrefixQuery(self._number, "model", packed(question.prompt)))
        told = self._receive()
        slots, held = np.frombuffer(told.slots, SLOT), np.frombuffer(told.expected, TOKENS)
        return choose_among_holders(RULES, len(question.prompt), slots, held, question.loads)

    def round(self, question: Question) -> dict[str, float]:
        """Microseconds for a choice: CPU time of both processes, and time until the choice."""
        begun = time.perf_counter()
        question.check(self.choose(question))
        calls = max(1, int(SECONDS_PER_QUESTION / (time.perf_counter() - begun)))
        answering, asking, began = self._cpu_of_answerer(), time.process_time(), time.perf_counter()
        for _ in range(calls):
            self.choose(question)
        took, asked = time.perf_counter() - began, time.process_time() - asking
        used = asked + self._cpu_of_answerer() - answering
        return {"microseconds": 1e6 * used / calls, "microseconds_until_answer": 1e6 * took / calls}

    def _cpu_of_answerer(self) -> float:
        return time.clock_gettime(self._clock_of_answerer)

    def close(self) -> None:
        """Nothing more is asked."""
        self._socket.close()

    def _send(self, message: msgspec.Struct) -> None:
        content = self._encode(message)
        length = len(content).to_bytes(LENGTH_BYTES, "little")
        if len(content) < SOONER_COPIED:
            self._socket.sendall(length + content)
        else:
            self._socket.sendall(length, socket.MSG_MORE)
            self._socket.sendall(content)

    def _receive(self) -> Any:
        content = bytearray()
        needed = LENGTH_BYTES
        while len(content) < needed:
            received = self._socket.recv(1 << 18)
            if not received:
                raise SystemExit("the index hung up")
            content += received
            if len(content) >= LENGTH_BYTES:
                needed = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
        return self._decode(content[LENGTH_BYTES:])
