"""A closed loop of clients over connections that are kept alive, each sending its next request when it has its answer.

Used by `gateway_overhead.py` as a process of its own. It warms the gateway up, prints `{"warm": …}`, waits for a line
on standard input, sends exactly as many requests as that line says and prints what came back as JSON. Every answer is
checked: the status, the finish reason, for streams every event and `[DONE]`. What is not right counts as an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import httptools
import numpy as np
import uvloop
from overhead.limits import raise_open_files
from overhead.questions import bodies, framed
from overhead.wire import CONTENT_EVENTS, DONE, FINISHED, STAMP, STAMP_DIGITS, TOKEN_IDS

STAMP_LENGTH = len(STAMP) + STAMP_DIGITS
CONNECTIONS_AT_ONCE = 64


class Results:
    """What came back in one run."""

    def __init__(self) -> None:
        self.done = 0
        self.errors: Counter[str] = Counter()
        self.latencies = array("q")
        self.first_bytes = array("q")
        self.delays = array("q")
        """Of each content event: nanoseconds from the engine's write to here."""

    def as_json(self, seconds: float) -> dict[str, Any]:
        return {
            "requests": self.done,
            "errors": dict(self.errors),
            "seconds": seconds,
            "latency_ms": _percentiles(self.latencies),
            "first_byte_ms": _percentiles(self.first_bytes),
            "delay_ms": _percentiles(self.delays),
        }


def _percentiles(nanoseconds: array[int]) -> dict[str, float] | None:
    if not nanoseconds:
        return None
    values = np.frombuffer(nanoseconds, dtype=np.int64) / 1e6
    p50, p90, p99, top = np.percentile(values, [50, 90, 99, 100])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(top)}


class Clients:
    """All connections and the run that they work on."""

    def __init__(self, port: int, requests: list[bytes], stream: bool) -> None:
        self.stream = stream
        self.results = Results()
        self._port = port
        self._requests = cycle(requests)
        self._loop = asyncio.get_running_loop()
        self._idle: list[Client] = []
        self._left = 0
        self._under_way = 0
        self._finished = asyncio.Event()

    async def connect(self, count: int) -> None:
        """Opens `count` connections."""
        while len(self._idle) < count:
            batch = min(CONNECTIONS_AT_ONCE, count - len(self._idle))
            await asyncio.gather(*(self._open() for _ in range(batch)))

    async def run(self, requests: int, ramp: float, deadline: float) -> dict[str, Any]:
        """Sends `requests` requests, the first of each connection spread over `ramp` seconds.

        What is not answered after `deadline` seconds is an error.
        """
        self.results = Results()
        self._left = requests
        self._finished.clear()
        started = time.monotonic()
        clients, self._idle = self._idle, []
        pause = ramp / max(1, len(clients))
        for number, client in enumerate(clients):
            self._under_way += 1
            if ramp:
                self._loop.call_later(pause * number, self.advance, client)
            else:
                self.advance(client)
        try:
            await asyncio.wait_for(self._finished.wait(), deadline)
        except asyncio.TimeoutError:
            self.results.errors[f"not answered within {deadline:.0f} s"] += self._under_way
        return self.results.as_json(time.monotonic() - started)

    def advance(self, client: Client) -> None:
        """Gives `client`, which has nothing to do, its next request."""
        if self._left > 0:
            self._left -= 1
            client.send(next(self._requests))
            return
        self._idle.append(client)
        self._under_way -= 1
        if not self._under_way:
            self._finished.set()

    def replace(self) -> None:
        """A client lost its connection in the middle of a request: another one goes on."""
        task = self._loop.create_task(self._reopen())
        task.add_done_callback(lambda _: None)

    async def _reopen(self) -> None:
        try:
            await self._open()
        except OSError as error:
            self.results.errors[f"cannot connect: {error}"] += 1
            self._under_way -= 1
            if not self._under_way:
                self._finished.set()
            return
        self.advance(self._idle.pop())

    async def _open(self) -> None:
        await self._loop.create_connection(lambda: Client(self), "127.0.0.1", self._port)

    def opened(self, client: Client) -> None:
        self._idle.append(client)


class Client(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._stream = clients.stream
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._sent = 0
        self._waiting = False
        self._got_byte = False
        self._body = b""
        self._events = 0
        self._finished = False
        self._ended = False
        self._leaked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._clients.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._waiting = False
            self._clients.results.errors[f"connection lost: {exc or 'closed'}"] += 1
            self._clients.replace()

    def send(self, request: bytes) -> None:
        """Sends a request; its answer leads to the next one."""
        self._body = b""
        self._events = 0
        self._finished = self._ended = self._leaked = self._got_byte = False
        self._waiting = True
        self._sent = time.monotonic_ns()
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._got_byte:
            self._got_byte = True
            self._clients.results.first_bytes.append(time.monotonic_ns() - self._sent)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._clients.results.errors[f"not HTTP: {error}"] += 1
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        if self._body:
            body = self._body + body
        if not self._stream:
            self._body = body
            return
        end = body.rfind(b"\n\n") + 2
        if end == 1:
            self._body = body
            return
        self._body = body[end:] if end != len(body) else b""
        now = time.monotonic_ns()
        if TOKEN_IDS in body:
            self._leaked = True
        position = body.find(STAMP, 0, end)
        while position >= 0:
            written = position + STAMP_LENGTH
            self._clients.results.delays.append(now - int(body[position + len(STAMP) : written]))
            self._events += 1
            position = body.find(STAMP, written, end)
        if self._events == CONTENT_EVENTS:
            self._finished = self._finished or FINISHED in body
            self._ended = self._finished and body.endswith(DONE, 0, end)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        wrong = self._what_is_wrong(status)
        results = self._clients.results
        if wrong:
            results.errors[wrong] += 1
        else:
            results.done += 1
            results.latencies.append(time.monotonic_ns() - self._sent)
        self._waiting = False
        if not self._parser.should_keep_alive():
            self._transport.close()
            self._clients.replace()
        else:
            self._clients.advance(self)

    def _what_is_wrong(self, status: int) -> str | None:
        if status != 200:
            return f"status {status}: {self._body[:200].decode(errors='replace')}"
        if not self._stream:
            return None if FINISHED in self._body else f"not an answer: {self._body[:200].decode(errors='replace')}"
        if self._events != CONTENT_EVENTS:
            return f"a stream of {self._events} content events instead of {CONTENT_EVENTS}"
        if not self._ended:
            return "a stream without finish reason or [DONE]"
        return "token ids that the client did not ask for" if self._leaked else None


async def serve(arguments: argparse.Namespace) -> None:
    """Warms up, then one run for each line of standard input."""
    loop = asyncio.get_running_loop()
    prepared = bodies(arguments.body, arguments.stream, arguments.distinct)
    clients = Clients(arguments.port, [framed(body, arguments.port) for body in prepared], arguments.stream)
    await clients.connect(arguments.connections)
    warm = await clients.run(arguments.warm_up, arguments.ramp, arguments.deadline)
    print(json.dumps({"warm": warm}), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        result = await clients.run(int(line), arguments.ramp, arguments.deadline)
        print(json.dumps(result), flush=True)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the load generator's flags."""
    parser.add_argument("--port", type=int, required=True, help="of the gateway, on 127.0.0.1")
    parser.add_argument("--connections", type=int, default=64, metavar="N", help="clients at once")
    parser.add_argument("--warm-up", type=int, default=640, metavar="N", help="requests before the first run")
    parser.add_argument("--body", choices=("small", "image", "text"), default="small", help="600 bytes or 1 MiB")
    parser.add_argument("--distinct", type=int, default=512, metavar="N", help="how many different bodies")
    parser.add_argument("--stream", action="store_true", help="ask for a stream")
    parser.add_argument("--ramp", type=float, default=0.0, metavar="SECONDS", help="spread the clients' starts")
    parser.add_argument("--deadline", type=float, default=180.0, metavar="SECONDS", help="for one run")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the load generator; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configure(parser)
    arguments = parser.parse_args(argv)
    raise_open_files()
    uvloop.run(serve(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
