"""A Controller that a test plays: it records every report and hands out the orders that it was given."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from free_ports import free_port
from pymotor.fleet import (
    ControllerRefusal,
    NodeOrder,
    NodeReport,
    ReportReply,
    Role,
    decode_message,
    encode_message,
)

SECONDS = 60.0
TOKEN = "a-token-of-the-tests-0123456789"


class ScriptedController:
    """Listens on a port of its own. Use as a context manager; `close()` and `open()` are its end and its return."""

    def __init__(self, token: str = TOKEN) -> None:
        self._token = token
        self._news = threading.Condition()
        self._closed = False
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()
        self.epoch = 1
        self.order: NodeOrder | None = None
        self.refusal: tuple[int, ControllerRefusal] | None = None
        """Status and body of every answer, while it is set."""
        self.reports: list[NodeReport] = []
        """All that came, in that order."""
        self.strangers = 0
        """Reports without the right token."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> ScriptedController:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen, after `close()` on the same port."""
        self._closed = False
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """As if it were dead."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def give(self, instance: str = "union-0", **fields: object) -> NodeOrder:
        """Hand out an order, newer than the last one unless `fields` say otherwise."""
        with self._news:
            last = self.order
            known: dict[str, object] = {
                "epoch": self.epoch,
                "revision": last.revision + 1 if last is not None else 1,
                "instance": instance,
                "role": Role(instance.partition("-")[0]) if instance else None,
                "number": int(instance.rpartition("-")[2]) if instance else 0,
                "generation": 1,
                "stop_seconds": 5.0,
            }
            order = NodeOrder(**{**known, **fields})  # type: ignore[arg-type]
            self.order = order
            self._news.notify_all()
        return order

    def wait_for(self, condition: Callable[[NodeReport], object], what: str, since: int = 0) -> NodeReport:
        """The first report of which `condition` is true, of those from number `since` on that came or will come."""
        found: list[NodeReport] = []

        def look() -> bool:
            found.extend(report for report in self.reports[since:] if condition(report))
            return bool(found)

        with self._news:
            last = self.reports[-1] if self.reports else None
            assert self._news.wait_for(look, SECONDS), f"not reported within {SECONDS:g} s: {what}; last {last}"
        return found[0]

    @property
    def count(self) -> int:
        """How many reports came so far."""
        with self._news:
            return len(self.reports)

    def answer(self, body: bytes, authorization: str | None) -> tuple[int, bytes]:
        """Status and body of the answer to a report."""
        with self._news:
            if authorization != f"Bearer {self._token}":
                self.strangers += 1
                return 401, encode_message(ControllerRefusal(error="who are you?"))
            report = decode_message(body, NodeReport)
            self.reports.append(report)
            self._news.notify_all()
            if report.wait_seconds:
                self._news.wait_for(
                    lambda: self._closed or self.refusal is not None or self.order not in (None, report.held),
                    report.wait_seconds,
                )
            if self._closed:
                raise ConnectionError
            if self.refusal is not None:
                return self.refusal[0], encode_message(self.refusal[1])
            return 200, encode_message(ReportReply(epoch=self.epoch, order=self.order))


def _handler(controller: ScriptedController) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/nodes/report"
            try:
                status, answer = controller.answer(body, self.headers["Authorization"])
            except ConnectionError:
                self.close_connection = True
                return
            with contextlib.suppress(ConnectionError):  # the node has ended meanwhile
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
