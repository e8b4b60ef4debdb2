"""A gateway of the callback dialect as small as can be: D's leg first, P's leg when D calls back."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import httpx
from sim_legs import CLIENT, Engine

Prefill = Callable[[dict[str, Any]], int]
"""What to do with a callback; returns the status to answer it with."""


class CallbackGateway:
    """Listens for callbacks, keeps their bodies, and does with each what `prefill` says. Use as a context."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.prefill: Prefill = lambda body: 200
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/metaserver"
        self._pool = ThreadPoolExecutor(16)

    def __enter__(self) -> CallbackGateway:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._pool.shutdown(cancel_futures=True)

    def decode(
        self, engine: Engine, path: str, body: dict[str, Any], name: str, **params: Any
    ) -> Future[httpx.Response]:
        """D's leg under a request id, on its way."""
        params = {"do_remote_prefill": True, "do_remote_decode": False, "metaserver": self.url, **params}
        sent = {**body, "kv_transfer_params": params}
        return self._pool.submit(CLIENT.post, engine.url + path, json=sent, headers={"X-Request-Id": name})

    def through(
        self,
        prefill: Engine,
        decode: Engine,
        body: dict[str, Any],
        *,
        path: str = "/v1/chat/completions",
        prompts: int = 1,
    ) -> httpx.Response:
        """D's answer after P was given what D asked for; of several prompts when all of them have called."""
        name = uuid.uuid4().hex
        arrived: dict[str, dict[str, Any]] = {}
        all_there = threading.Event()
        prefilled = self._pool.submit(self._prefill_when_all_there, all_there, prefill, body, path, arrived, name)

        def collect(callback: dict[str, Any]) -> int:
            arrived[callback["request_id"]] = callback
            if len(arrived) == prompts:
                all_there.set()
            return prefilled.result(60).status_code

        self.prefill = collect
        return self.decode(decode, path, body, name).result(60)

    @staticmethod
    def _prefill_when_all_there(
        all_there: threading.Event,
        engine: Engine,
        body: dict[str, Any],
        path: str,
        arrived: dict[str, dict[str, Any]],
        name: str,
    ) -> httpx.Response:
        assert all_there.wait(60)
        return prefill_leg(engine, body, dict(sorted(arrived.items())), name, path)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                gateway.bodies.append(body)
                self.send_response(gateway.prefill(body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def prefill_leg(
    engine: Engine,
    body: dict[str, Any],
    callbacks: dict[str, dict[str, Any]],
    name: str,
    path: str = "/v1/chat/completions",
) -> httpx.Response:
    """P's leg with what the callbacks said."""
    params = dict(next(iter(callbacks.values())))
    if len(callbacks) > 1:
        params["batch_kv_transfer_params"] = callbacks
    sent = {**body, "stream": False, "max_tokens": 1, "min_tokens": 1, "kv_transfer_params": params}
    return CLIENT.post(engine.url + path, json=sent, headers={"X-Request-Id": name})
