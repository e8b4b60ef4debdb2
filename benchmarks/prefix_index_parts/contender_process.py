"""Has one index in a process of its own and measures it, round by round: `contender_process.py NAME ENDPOINTS ENTRIES`.

It reads commands from standard input, a word in each line, and answers each with a line of JSON: `fill` (a new index is
filled), `choose` (a round of questions within this process), `serve` (a port; it answers there by the frames of the KV
Conductor until the connection ends).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prefix_index_parts.contenders import CONTENDERS, Contender, chosen
from prefix_index_parts.questions import LENGTHS, SHARED_TOKENS, questions
from prefix_index_parts.workload import BLOCK, Message, decoded, removed, stored
from pymotor.kv_conductor.frames import CoordinatorConnection
from pymotor.kv_conductor.instruments import Figures

PROMPT_BLOCKS = 1024
CHURN_BLOCKS = 16_384
SECONDS_PER_QUESTION = 0.008
"""Of one round."""
FIRST_SEED = 1_000_000
PREFACE_BYTES = 13


class Measured:
    """One index, and what it is asked."""

    def __init__(self, name: str, endpoints: int, entries: int) -> None:
        self._make = contender(name)
        self._endpoints = endpoints
        self._entries = entries
        self._index: Contender | None = None
        self._memory: float | None = None

    def fill(self) -> dict[str, Any]:
        """Makes the index anew, and measures how it takes events."""
        self._index = None
        gc.collect()
        endpoints, entries = self._endpoints, self._entries
        index = self._index = self._make(endpoints)
        # A first event makes whatever is made once.
        play(index, stored(0, 1, 4))
        before = memory()
        fill = play(index, unique_prompts(endpoints, entries))
        if self._memory is None:
            # Later rounds find memory that earlier ones left.
            self._memory = (memory() - before) / fill["blocks"]
        shared = play(index, shared_prompt(endpoints))
        decode = play(index, decode_steps(endpoints))
        for place, length in enumerate(LENGTHS):
            play(index, stored(place % endpoints, length, length // BLOCK))
        removals = play(index, evictions(endpoints, entries))
        ingest = {"prefill": fill, "prefill_of_a_shared_prompt": shared, "decode": decode, "removal": removals}
        return {"ingest": ingest, "memory_bytes_per_entry": self._memory}

    def choose(self) -> list[dict[str, Any]]:
        """Tokens in, choice out, within this process."""
        index = self._index
        assert index is not None
        results = []
        for question in questions(self._endpoints):
            question.check(chosen(index, question.prompt, question.loads))
            result = timed(lambda q=question: chosen(index, q.prompt, q.loads))
            results.append({"tokens": len(question.prompt), "kind": question.kind, **result})
        return results

    async def serve(self) -> None:
        """Answers one connection by frames."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        assert self._index is not None
        connections = _Connections(ended)
        answerer = self._index.answerer()

        def connection() -> _AfterPreface:
            return _AfterPreface(CoordinatorConnection(answerer, None, Figures(), connections))

        server = await loop.create_server(connection, "127.0.0.1", 0)
        say(server.sockets[0].getsockname()[1])
        await ended
        server.close()


class _Connections(set[CoordinatorConnection]):
    """Says when the one in it has gone."""

    def __init__(self, ended: asyncio.Future[None]) -> None:
        super().__init__()
        self._ended = ended

    def discard(self, connection: CoordinatorConnection) -> None:
        super().discard(connection)
        self._ended.set_result(None)


class _AfterPreface(asyncio.Protocol):
    """What the conductor's front door does: the preface is for it."""

    def __init__(self, connection: CoordinatorConnection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._began = b""

    def data_received(self, data: bytes) -> None:
        self._began += data
        if len(self._began) >= PREFACE_BYTES:
            self._transport.set_protocol(self._connection)
            self._connection.connection_made(self._transport)
            self._connection.data_received(self._began[PREFACE_BYTES:])


def contender(name: str) -> Callable[[int], Contender]:
    """One of `CONTENDERS`, or any other as `module:name`."""
    if ":" not in name:
        return CONTENDERS[name]
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def unique_prompts(endpoints: int, entries: int) -> Iterable[Message]:
    """Prompts of up to 16k tokens that one endpoint each holds, in turns."""
    each = max(1, min(PROMPT_BLOCKS, entries // endpoints))
    for number in range(entries // each):
        yield from stored(number % endpoints, FIRST_SEED + number, each)


def shared_prompt(endpoints: int) -> Iterable[Message]:
    """One prompt that all endpoints hold."""
    messages = list(stored(0, 2, SHARED_TOKENS // BLOCK))
    for endpoint in range(endpoints):
        yield from (Message(endpoint, message.payload, message.blocks) for message in messages)


def decode_steps(endpoints: int) -> Iterable[Message]:
    """Eight answers at a time grow by a block each."""
    for round_ in range(4):
        seeds = [5000 + 8 * round_ + place for place in range(8)]
        for seed in seeds:
            yield from (Message(round_ % endpoints, own.payload, 0) for own in stored(round_ % endpoints, seed, 4))
        yield from decoded(round_ % endpoints, seeds, 4, 128)


def evictions(endpoints: int, entries: int) -> Iterable[Message]:
    """The first of the unique prompts go."""
    each = max(1, min(PROMPT_BLOCKS, entries // endpoints))
    for number in range(min(entries, CHURN_BLOCKS) // each):
        yield from removed(number % endpoints, FIRST_SEED + number, each)


def play(index: Contender, messages: Iterable[Message]) -> dict[str, float]:
    """Feeds messages, which are made outside the time that counts; CPU time of all threads, in
    microseconds for a block."""
    converting = applying = 0.0
    blocks = 0
    for message in messages:
        begun = time.process_time()
        converted = index.convert(message.payload)
        between = time.process_time()
        index.apply(message.endpoint, converted)
        applying += time.process_time() - between
        if message.blocks:
            converting += between - begun
            blocks += message.blocks
    begun = time.process_time()
    index.finish()
    applying += time.process_time() - begun
    count = max(1, blocks)
    return {
        "blocks": blocks,
        "blocks_per_second": count / (converting + applying),
        "microseconds": 1e6 * (converting + applying) / count,
        "microseconds_of_conversion": 1e6 * converting / count,
    }


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Microseconds for a call: CPU time of all threads, and time until the answer."""
    begun = time.perf_counter()
    call()
    calls = max(1, int(SECONDS_PER_QUESTION / (time.perf_counter() - begun)))
    begun, begun_used = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    used = 1e6 * (time.process_time() - begun_used) / calls
    return {"microseconds": used, "microseconds_until_answer": 1e6 * (time.perf_counter() - begun) / calls}


def say(answer: object) -> None:
    """To who asked."""
    print(json.dumps(answer), flush=True)


def memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(name: str, endpoints: int, entries: int) -> None:
    """Does what is asked, until nothing more is."""
    measured = Measured(name, endpoints, entries)
    for line in sys.stdin:
        command = line.strip()
        if command == "fill":
            say(measured.fill())
        elif command == "choose":
            say(measured.choose())
        else:
            uvloop.run(measured.serve())


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
