"""A collector of traces as a process of its own: takes OTLP over HTTP (protobuf), tells what it got as JSON.

`python otlp_collector.py` prints its port. `POST /v1/traces` takes spans, `GET /spans` tells them all, `POST /behave`
with `{"status": 503}` or `{"hang": true}` decides how it answers from now on.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Span = dict[str, Any]
_KINDS = {1: "internal", 2: "server", 3: "client"}


class Collector:
    """The process, as tests have it. Use as a context manager."""

    def __enter__(self) -> Collector:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def config(self, **ratios: float) -> dict[str, object]:
        """A `tracer_config` that sends to it."""
        return {"endpoint": self.url, **ratios}

    def behave(self, **how: object) -> None:
        """Answer so from now on; without words: well."""
        self._ask("/behave", json.dumps(how).encode())

    def spans(self) -> list[Span]:
        """All spans it got."""
        found: list[Span] = self._ask("/spans")
        return found

    def headers(self) -> dict[str, str]:
        """Of the last request with spans, names in lower case."""
        found: dict[str, str] = self._ask("/headers")
        return found

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(self.url + path, body, timeout=30) as reply:
            return json.load(reply)

    def traces(self) -> dict[str, list[Span]]:
        """The same by trace, each in the order of time."""
        traces: dict[str, list[Span]] = {}
        for span in sorted(self.spans(), key=lambda span: int(span["start"])):
            traces.setdefault(span["trace"], []).append(span)
        return traces

    def trace_of(self, request_id: str, wait_until: Callable[..., None]) -> list[Span]:
        """The spans of the request that its client gave this id, as soon as they are there."""
        found: list[list[Span]] = []

        def has_come() -> bool:
            found[:] = [
                spans
                for spans in self.traces().values()
                if any(span["attributes"].get("pymotor.request_id") == request_id for span in spans)
            ]
            return bool(found)

        wait_until(has_come, f"the trace of {request_id} is there")
        (spans,) = found
        return spans


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _spans_in(body: bytes) -> list[Span]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    return [
        {
            "trace": span.trace_id.hex(),
            "id": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "state": span.trace_state,
            "name": span.name,
            "kind": _KINDS.get(span.kind, "other"),
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "failed": span.status.code == 2,
            "attributes": _attributes(span.attributes),
            "events": [{"name": event.name, "at": event.time_unix_nano} for event in span.events],
            "resource": _attributes(of_resource.resource.attributes),
        }
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    taken: ClassVar[list[Span]] = []
    last_headers: ClassVar[dict[str, str]] = {}
    how: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/behave":
            type(self).how = json.loads(body)
            return self._answer(200, b"{}")
        if self.path != "/v1/traces":
            return self._answer(404, b"")
        type(self).last_headers = {name.lower(): value for name, value in self.headers.items()}
        if self.how.get("hang"):
            threading.Event().wait()
        status = self.how.get("status", 200)
        if status == 200:
            self.taken.extend(_spans_in(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body))
        return self._answer(status, b"")

    def do_GET(self) -> None:
        self._answer(200, json.dumps(self.last_headers if self.path == "/headers" else self.taken).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    """Serve until killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
