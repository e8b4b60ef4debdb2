"""How much of a request's latency its trace explains: the client's own time against the union of the spans.

`pymotor up` starts two encode, prefill and decode instances of simulated engines in real time and a Coordinator that
traces every request to a collector in this process. Clients send requests of several kinds, some more than there is
room for, so that they queue. Of each request over 200 ms the report tells which part of what its client waited for
lies within the steps of its trace (queue, encode, prefill, handoff, decode, pauses), the request's own span not
counted.

  python benchmarks/trace_coverage.py
  python benchmarks/trace_coverage.py --requests 40 --results benchmarks/results/trace_coverage

Exit status: 0 the steps explain at least 95 % of each such request, 1 they do not or an answer was wrong, 2 wrong
usage.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import platform
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chats.fleet import Fleet, write_config

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/infer_engines/sim/epd/user_config.json"
CHAT = "/v1/chat/completions"
LONG = 0.2
"""Seconds from which a request counts."""
LIMIT = 0.95
_TRACES_SECONDS = 30.0
_EXPLAINED = """What is explained is the part of the client's own time that lies within the steps of the trace, their
union, without the request's own span; that one is told beside it. What is left is the way to the gateway and back, and
the gateway's own work between two steps. `handoff` lies within `decode` where streams are concerned; steps of several
answers run at once. `figures.json` has every request, with the longest time that no step explains and what it was
behind."""
Body = dict[str, Any]


@dataclass(frozen=True)
class Span:
    """One span; times in seconds since 1970."""

    name: str
    began: float
    ended: float
    root: bool
    request_id: str


@dataclass(frozen=True)
class Explained:
    """One request."""

    kind: str
    seconds: float
    """What its client waited."""
    share: float
    """Of that, what lies within steps."""
    root_share: float
    """Of that, what lies within the request's own span."""
    steps: dict[str, float]
    """Seconds within the steps of each name."""
    gap: tuple[str, float]
    """The longest time within its own span that no step explains: behind which step (empty: before all), seconds."""


class Collector:
    """Takes OTLP over HTTP in a thread. Use as a context manager."""

    def __init__(self) -> None:
        self.traces: dict[bytes, list[Span]] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, body: bytes) -> None:
        """One export."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    words = {pair.key: pair.value.string_value for pair in span.attributes}
                    began, ended = span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9
                    taken = Span(span.name, began, ended, span.kind == 2, words.get("pymotor.request_id", ""))
                    self.traces.setdefault(span.trace_id, []).append(taken)

    def of(self, request_id: str) -> list[Span]:
        """The spans of one request; empty as long as they have not come."""
        return next((spans for spans in list(self.traces.values()) if _is_of(spans, request_id)), [])

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _is_of(spans: Iterable[Span], request_id: str) -> bool:
    return any(span.request_id == request_id for span in spans)


def user_config(collector: str) -> Body:
    """The example's fleet, traced, with room for three requests at each decode endpoint."""
    config: Body = json.loads(EXAMPLE.read_text())
    config["motor_coordinator_config"] |= {
        "tracer_config": {"endpoint": collector},
        "request_limit": {"max_running": {"decode": 3}},
        "inference_workers_config": {"num_workers": 1},
    }
    return config


def _image(number: int, side: int = 448) -> str:
    rows = b"".join(b"\0" + bytes((number * 31 + x * 7 + y) % 256 for x in range(side * 3)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def requests(count: int) -> list[tuple[str, Body]]:
    """So many requests of each kind, mixed: kind and body."""
    made = []
    for number in range(count):
        text = {"type": "text", "text": f"Request {number}: " + "tell me all about it. " * 40}
        image = {"type": "image_url", "image_url": {"url": _image(number)}}
        common: Body = {"model": "qwenvl", "max_tokens": 64}
        media: Body = {**common, "messages": [{"role": "user", "content": [image, text]}]}
        alone: Body = {**common, "messages": [{"role": "user", "content": [text]}]}
        made += [
            ("image, stream", {**media, "stream": True}),
            ("image, whole", media),
            ("text, stream", {**alone, "stream": True}),
            ("text, whole", alone),
            ("text, 3 answers", {**alone, "stream": True, "n": 3}),
        ]
    return made


def ask_all(port: int, bodies: Sequence[tuple[str, Body]], at_once: int) -> list[tuple[str, str, float]]:
    """Send all, `at_once` at a time on as many connections; returns kind, request id and seconds of each. Raises
    `RuntimeError`."""
    left = iter([(kind, json.dumps(body).encode()) for kind, body in bodies])
    taking = threading.Lock()
    done: list[tuple[str, str, float]] = []

    def client(_: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
            connection.connect()
            while True:
                with taking:
                    kind, content = next(left, ("", b""))
                if not kind:
                    return
                request_id = uuid.uuid4().hex
                headers = {"X-Request-Id": request_id, "Content-Type": "application/json"}
                since = time.perf_counter()
                connection.request("POST", CHAT, content, headers)
                reply = connection.getresponse()
                answer = reply.read()
                done.append((kind, request_id, time.perf_counter() - since))
                if reply.status != 200 or b'"error"' in answer:
                    raise RuntimeError(f"{kind}: {reply.status} {answer[:300]!r}")

    with ThreadPoolExecutor(at_once) as clients:
        list(clients.map(client, range(at_once)))
    return done


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union."""
    total = 0.0
    until = float("-inf")
    for began, ended in sorted(intervals):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def explained(kind: str, seconds: float, spans: Sequence[Span]) -> Explained:
    """What the trace of a request says of the time its client waited."""
    (root,) = [span for span in spans if span.root]
    steps = [(span.name, max(span.began, root.began), min(span.ended, root.ended)) for span in spans if not span.root]
    names = sorted({name for name, _, _ in steps})
    return Explained(
        kind,
        seconds,
        covered((began, ended) for _, began, ended in steps) / seconds,
        (root.ended - root.began) / seconds,
        {name: covered((began, ended) for one, began, ended in steps if one == name) for name in names},
        longest_gap(root, steps),
    )


def longest_gap(root: Span, steps: Sequence[tuple[str, float, float]]) -> tuple[str, float]:
    """See `Explained.gap`."""
    until, behind = root.began, ""
    longest = ("", 0.0)
    for name, began, ended in (*sorted(steps, key=lambda step: step[1]), ("", root.ended, root.ended)):
        longest = max(longest, (behind, began - until), key=lambda gap: gap[1])
        if ended > until:
            until, behind = ended, name
    return longest


def report(found: Sequence[Explained]) -> str:
    """A table in Markdown, by kind of request."""
    lines = [
        "| request | over 200 ms | latency p50, ms | explained p50 | least | own span p50 | in steps, p50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in [*dict.fromkeys(one.kind for one in found), "all"]:
        ours = [one for one in found if kind in (one.kind, "all")]
        names = sorted({name for one in ours for name in one.steps})
        where = ", ".join(
            f"{name} {statistics.median(one.steps.get(name, 0.0) for one in ours) * 1000:.0f}" for name in names
        )
        lines.append(
            f"| {kind} | {len(ours)} | {statistics.median(one.seconds for one in ours) * 1000:.0f} "
            f"| {statistics.median(one.share for one in ours):.2%} | {min(one.share for one in ours):.2%} "
            f"| {statistics.median(one.root_share for one in ours):.2%} | {where} |"
        )
    return "\n".join(lines)


def free_block(size: int = 5) -> int:
    """The first of so many ports in a row that nobody listens on at this moment."""
    for first in range(36000, 60000, size):
        with ExitStack() as opened, suppress(OSError):
            for port in range(first, first + size):
                opened.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise RuntimeError("no free ports in a row are left")


def measure(count: int, at_once: int, port: int) -> list[Explained]:
    """Run it; returns the requests over 200 ms. Raises `RuntimeError` when something does not work."""
    with Collector() as collector, tempfile.TemporaryDirectory() as directory:
        write_config(Path(directory) / "config", user_config(collector.url))
        fleet = Fleet(Path(directory) / "home", port)
        fleet.up(Path(directory) / "config")
        try:
            done = ask_all(port, requests(count), at_once)
            ends = time.monotonic() + _TRACES_SECONDS
            while not all(collector.of(request_id) for _, request_id, _ in done):
                if time.monotonic() > ends:
                    raise RuntimeError("not all traces have come")
                time.sleep(0.1)
        finally:
            fleet.down()
        return [
            explained(kind, seconds, collector.of(request_id)) for kind, request_id, seconds in done if seconds > LONG
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, help="of the fleet, and four above it; any by default")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", help="write README.md and figures.json there")
    arguments = parser.parse_args(argv)
    with suppress(PermissionError):
        # Other work on the machine delays who is measured and who measures alike.
        os.nice(-10)
    try:
        found = measure(arguments.requests, arguments.at_once, arguments.port or free_block())
    except RuntimeError as error:
        print(f"trace_coverage: {error}", file=sys.stderr)
        return 1
    if not found:
        print("trace_coverage: no request took 200 ms", file=sys.stderr)
        return 1
    table = report(found)
    print(table)
    if arguments.results is not None:
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / "figures.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
        command = f"python benchmarks/trace_coverage.py --requests {arguments.requests} --at-once {arguments.at_once}"
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}"
        text = f"# What traces explain of the latency\n\n`{command}` on {time.strftime('%Y-%m-%d')}: {machine}.\n\n"
        (arguments.results / "README.md").write_text(f"{text}{table}\n\n{_EXPLAINED}\n")
    return 0 if min(one.share for one in found) >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
