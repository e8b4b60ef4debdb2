"""A fake engine that is fast enough to measure gateways with: many endpoints in one process.

Each endpoint is a port of 127.0.0.1 with one role and answers as vLLM does with NixlConnector: prefill gives
`kv_transfer_params`, decode accepts each of them once, union needs none, encode answers with the metadata of one
image, and decode takes no image where encoders are. A request that a role would not get
from a right gateway is answered with 400 and counted, so that a benchmark cannot be won by skipping work.
Streams have 64 events; each content event carries the monotonic time at which it was written.

Prints one line of JSON when it listens, `{"encode": [ports], "prefill": [...], …, "control": port}`, and
ends when its standard input does. Control: `GET /counters`, `POST /pace` with the milliseconds between events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import httptools
import msgspec
import uvloop
from overhead.limits import raise_open_files
from overhead.wire import CONTENT_EVENTS, MODEL, StreamEvents, completion, encoded, prefilled, response

HEALTHY = response(b"200 OK", b"")
MODELS = response(
    b"200 OK",
    b'{"object":"list","data":[{"id":"%s","object":"model","created":1790000000,"owned_by":"vllm","root":"%s",'
    b'"parent":null,"max_model_len":1048576}]}' % (MODEL.encode(), MODEL.encode()),
)
IMAGE = b'"data:image/'
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Transfer(msgspec.Struct):
    """What the engine reads of `kv_transfer_params`."""

    do_remote_decode: bool = False
    do_remote_prefill: bool = False
    remote_request_id: str | None = None
    remote_engine_id: str | None = None


class Question(msgspec.Struct):
    """What the engine reads of a chat completion request."""

    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    return_token_ids: bool = False
    kv_transfer_params: Transfer | None = None


class Counters(msgspec.Struct):
    """What happened since the last `GET /counters`."""

    legs: dict[str, int] = msgspec.field(default_factory=lambda: {"encode": 0, "prefill": 0, "decode": 0, "union": 0})
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    endpoints: set[int] = msgspec.field(default_factory=set)
    """Ports that served a leg."""


class Pacer:
    """Writes the streams' events on time: a wheel of slots of a millisecond, one timer for all streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.milliseconds = 2
        self._loop = loop
        self._slots: dict[int, list[Stream]] = defaultdict(list)
        self._now = 0
        self._waiting = 0

    def add(self, stream: Stream) -> None:
        """Lets `stream` write its next event one interval from now."""
        if not self._waiting:
            self._now = int(self._loop.time() * 1000)
            self._loop.call_later(0.001, self._tick)
        self._waiting += 1
        self._slots[self._now + self.milliseconds].append(stream)

    def _tick(self) -> None:
        until = int(self._loop.time() * 1000)
        while self._now < until:
            self._now += 1
            due = self._slots.pop(self._now, ())
            self._waiting -= len(due)
            for stream in due:
                if stream.write_next():
                    self._waiting += 1
                    self._slots[self._now + self.milliseconds].append(stream)
        if self._waiting:
            self._loop.call_later(0.001, self._tick)


class Stream:
    """One answer under way."""

    __slots__ = ("_events", "_left", "_transport")

    def __init__(self, transport: asyncio.Transport, events: StreamEvents) -> None:
        self._transport = transport
        self._events = events
        self._left = CONTENT_EVENTS
        transport.write(events.head)

    def write_next(self) -> bool:
        """Writes the next event; False when it was the last or nobody listens any more."""
        if self._transport.is_closing():
            return False
        if not self._left:
            self._transport.write(self._events.finish)
            return False
        self._left -= 1
        self._transport.write(self._events.content(time.monotonic_ns()))
        return True


class Engine:
    """What all endpoints share: open handoffs, counters, the pace of streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pacer = Pacer(loop)
        self.counters = Counters()
        self._read = msgspec.json.Decoder(Question).decode
        self._completion = completion()
        self._events = {wanted: StreamEvents(wanted) for wanted in (False, True)}
        self._handoffs: set[str] = set()
        self._issued = 0

    def answer(self, role: str, port: int, body: bytes, transport: asyncio.Transport) -> None:
        """Answers one chat completion request as an endpoint of `role` does."""
        try:
            question = self._read(body)
        except msgspec.DecodeError as error:
            self._refuse(transport, f"{role}: {error}")
            return
        self.counters.legs[role] += 1
        self.counters.endpoints.add(port)
        transfer = question.kv_transfer_params
        if role == "encode":
            if question.stream or IMAGE not in body:
                self._refuse(transport, "encode: not one image, or a stream")
                return
            self._issued += 1
            transport.write(encoded(f"{self._issued:064x}"))
            return
        if role == "prefill":
            tokens = question.max_tokens or question.max_completion_tokens
            if transfer is None or not transfer.do_remote_decode or tokens != 1 or question.stream:
                self._refuse(transport, "prefill: not a request for one token whose KV cache stays")
                return
            self._issued += 1
            request_id = f"chatcmpl-{self._issued:032x}"
            self._handoffs.add(request_id)
            transport.write(prefilled(request_id, f"engine-{port}", port))
            return
        if role == "decode":
            if transfer is None or not transfer.do_remote_prefill or transfer.remote_engine_id is None:
                self._refuse(transport, "decode: no handoff")
                return
            if transfer.remote_request_id not in self._handoffs:
                self._refuse(transport, "decode: a handoff that prefill did not make, or one used twice")
                return
            self._handoffs.discard(transfer.remote_request_id)
        elif transfer is not None:
            self._refuse(transport, "union: a handoff where none is wanted")
            return
        if question.stream:
            self.pacer.add(Stream(transport, self._events[question.return_token_ids]))
        else:
            transport.write(self._completion)

    def control(self, path: bytes, body: bytes, transport: asyncio.Transport) -> None:
        """Answers the benchmark itself."""
        if path == b"/pace":
            self.pacer.milliseconds = int(body)
        counted, self.counters = self.counters, Counters()
        reply = {"legs": counted.legs, "refused": counted.refused, "endpoints": len(counted.endpoints)}
        transport.write(response(b"200 OK", msgspec.json.encode(reply)))

    def _refuse(self, transport: asyncio.Transport, why: str) -> None:
        self.counters.refused[why] = self.counters.refused.get(why, 0) + 1
        body = msgspec.json.encode({"error": {"message": why, "type": "BadRequestError", "code": 400}})
        transport.write(response(b"400 Bad Request", body))


class EndpointConnection(asyncio.Protocol):
    """One connection to one endpoint; requests of any number, one after the other."""

    __slots__ = ("_body", "_engine", "_parser", "_path", "_port", "_role", "_transport")

    def __init__(self, engine: Engine, role: str, port: int) -> None:
        self._engine = engine
        self._role = role
        self._port = port
        self._path = b""
        self._body: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._engine.counters.refused[f"not HTTP: {error}"] = 1
            self._transport.close()

    def on_message_begin(self) -> None:
        self._path = b""
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if self._role == "control":
            self._engine.control(self._path, body, self._transport)
        elif self._path == b"/v1/chat/completions":
            self._engine.answer(self._role, self._port, body, self._transport)
        elif self._path == b"/v1/models":
            self._transport.write(MODELS)
        else:
            self._transport.write(HEALTHY)


async def serve(counts: dict[str, int]) -> None:
    """Listens until standard input ends."""
    loop = asyncio.get_running_loop()
    engine = Engine(loop)
    ports: dict[str, list[int]] = {}
    servers = []
    for role, count in {**counts, "control": 1}.items():
        ports[role] = []
        for _ in range(count):
            listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
            port = listener.getsockname()[1]
            ports[role].append(port)
            servers.append(await loop.create_server(partial(EndpointConnection, engine, role, port), sock=listener))
    print(json.dumps({**ports, "control": ports["control"][0]}), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    for server in servers:
        server.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the engine; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for role in ("encode", "prefill", "decode", "union"):
        parser.add_argument(f"--{role}", type=int, default=0, metavar="N", help=f"how many {role} endpoints")
    arguments = parser.parse_args(argv)
    counts = {role: getattr(arguments, role) for role in ("encode", "prefill", "decode", "union")}
    if not any(counts.values()):
        parser.error("ask for at least one endpoint, for example --prefill 1 --decode 1")
    raise_open_files()
    uvloop.run(serve(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
