"""A Controller that says what a test tells it to: `POST /fleet/watch` by long poll, and a record of who asked what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

from free_ports import free_port
from pymotor.control_plane import ClusterToken
from pymotor.fleet import (
    ControllerRefusal,
    FleetSnapshot,
    FleetWatch,
    Instance,
    decode_message,
    encode_message,
    encode_snapshot,
)

SECONDS = 60.0


@dataclass(frozen=True)
class Asked:
    """One question, as it came."""

    watch: FleetWatch
    number: int
    """How many snapshots had been told by then."""


class ScriptedController:
    """One Controller on a port of its own. Use as a context manager; it can be stopped and started in between."""

    def __init__(self, *, epoch: int = 1, token: str = "") -> None:
        """`epoch` of what it tells; `token`: the only one it takes, none by default."""
        self.epoch = epoch
        self.token = ClusterToken(token) if token else None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: list[Asked] = []
        self.refused_tokens = 0
        self._version = 0
        self._told = 0
        self._snapshot: FleetSnapshot | None = None
        self._refusal: tuple[int, ControllerRefusal] | None = None
        self._insists = False
        self._changed = threading.Condition()
        self._server: _Server | None = None

    def __enter__(self) -> ScriptedController:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Answer from now on."""
        server = self._server = _Server(self)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be gone; questions that wait are not answered."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        with self._changed:
            self._changed.notify_all()

    # -- what it says

    def tell(self, *instances: Instance, complete: bool = True, epoch: int | None = None) -> int:
        """Tell a new snapshot; returns its version. Another `epoch` is the one from now on."""
        with self._changed:
            self.epoch = self.epoch if epoch is None else epoch
            self._version += 1
            self._told += 1
            self._snapshot = FleetSnapshot(
                epoch=self.epoch, version=self._version, complete=complete, instances=instances
            )
            self._refusal = None
            self._changed.notify_all()
            return self._version

    def refuse(self, status: int = 503, leader: str = "") -> None:
        """Answer with this from now on, until something is told."""
        with self._changed:
            self._refusal = (status, ControllerRefusal(error="scripted", leader=leader))
            self._changed.notify_all()

    def insist(self) -> None:
        """Answer with the snapshot whatever the Coordinator has, as one does that knows of no newer epoch."""
        with self._changed:
            self._insists = True
            self._changed.notify_all()

    # -- what it heard

    def wait_asked(self, wanted: Callable[[FleetWatch], bool], what: str, *, after: int = 0) -> FleetWatch:
        """The first question behind the first `after` that is as wanted, as soon as it has come. Raises
        `AssertionError` that says `what` was not asked."""

        def found() -> FleetWatch | None:
            return next((asked.watch for asked in self.asked[after:] if wanted(asked.watch)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, SECONDS), f"not asked: {what}; {self.asked}"
            watch = found()
        assert watch is not None
        return watch

    def wait_count(self, more: int) -> None:
        """Wait for so many more questions."""
        with self._changed:
            goal = len(self.asked) + more
            assert self._changed.wait_for(lambda: len(self.asked) >= goal, SECONDS), f"asked {len(self.asked)} times"

    @property
    def coordinators(self) -> set[str]:
        """Who has asked."""
        with self._changed:
            return {asked.watch.coordinator for asked in self.asked}

    def answer(self, authorization: str | None, body: bytes) -> tuple[int, bytes] | None:
        """Status and body for one question; None when it is gone before it could say."""
        with self._changed:
            if self.token is not None and not self.token.accepts(authorization):
                self.refused_tokens += 1
                self._changed.notify_all()
                return 401, encode_message(ControllerRefusal(error="another token is shown"))
            watch = decode_message(body, FleetWatch)
            server = self._server
            self.asked.append(Asked(watch, self._told))
            self._changed.notify_all()
            ends = monotonic() + watch.wait_seconds
            while self._server is server and server is not None:
                if self._refusal is not None:
                    return self._refusal[0], encode_message(self._refusal[1])
                snapshot = self._snapshot
                has = (watch.epoch, watch.version)
                if snapshot is not None and (self._insists or (snapshot.epoch, snapshot.version) > has):
                    return 200, encode_snapshot(snapshot)
                left = ends - monotonic()
                if left <= 0:
                    return 204, b""
                self._changed.wait(left)
            return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, controller: ScriptedController) -> None:
        self.controller = controller
        super().__init__(("127.0.0.1", controller.port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """Answer a question."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = self.server.controller.answer(self.headers["Authorization"], body) if self._is_watch else (404, b"")
        if found is None:
            return
        status, content = found
        try:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the Coordinator has gone meanwhile

    @property
    def _is_watch(self) -> bool:
        return self.path == "/fleet/watch"

    def log_message(self, *_: object) -> None:
        """Nothing."""
