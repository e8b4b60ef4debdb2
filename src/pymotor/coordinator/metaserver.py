"""`POST /v1/metaserver/<worker>.<secret>`: where decode engines call a worker back.

Each worker has a port of its own for it, opened when a fleet needs it, at an address that engines can dial. The
inference port, which the workers share, answers the same path and passes a callback on to the worker it is for.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Mapping

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.callbacks import CALLBACK_PATH, Callbacks
from pymotor.coordinator.flows.responses import JSON, ResponseHeads
from pymotor.coordinator.http.client_request import ClientRequest, Limits
from pymotor.coordinator.http.exchange import UpstreamError
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.http.small_request import post
from pymotor.coordinator.http.upstream_pool import SharedState, UpstreamPool

logger = logging.getLogger(__name__)

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of a callback: block ids of a million tokens are a tenth of that."""
_LIMITS = Limits(head_bytes=16384, body_bytes=BODY_LIMIT, head_time=30.0, body_idle=30.0)
_BACKLOG = 4096


class Metaserver:
    """Hands callbacks to the worker they are for; strangers learn nothing."""

    def __init__(self, callbacks: Callbacks, heads: ResponseHeads, shared: SharedState, reply_seconds: float) -> None:
        """`reply_seconds` is how long another worker may take to answer."""
        self._callbacks = callbacks
        self._heads = heads
        self._shared = shared
        self._connections: set[ClientConnection] = set()
        self.reply_seconds = reply_seconds
        self._siblings: dict[int, UpstreamPool] = {}
        self._server: asyncio.Server | None = None

    def listen(self, host: str, port: int, advertised: str, shared_port: int | None = None) -> socket.socket:
        """A socket that listens at `host` and `port`, or any free port where that one is taken or 0; callbacks are
        asked for at `advertised` and its port, or else at `shared_port`, where workers pass them on to each other.
        `serve` answers them. Raises `OSError`."""
        listener = _listening(host, port)
        taken = shared_port or listener.getsockname()[1]
        name = f"[{advertised}]" if ":" in advertised else advertised
        self._callbacks.url = f"http://{name}:{taken}{self._callbacks.path.decode()}"
        logger.info("decode engines call back to %s port %d", advertised, taken)
        return listener

    async def serve(self, listener: socket.socket) -> None:
        """Answer callbacks at `listener`, until `close`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(loop, self.handle, self._refusal, _LIMITS, self._connections),
            sock=listener,
            backlog=_BACKLOG,
        )

    def close(self) -> None:
        """Accept no more connections and close those that are open."""
        if self._server is not None:
            self._server.close()
        for client in list(self._connections):
            client.transport.abort()

    def check_deadlines(self, now: float) -> None:
        """Close connections that have been silent for too long; called about once a second."""
        for client in list(self._connections):
            client.check_deadline(now)

    def set_siblings(self, ports: Mapping[int, int], host: str) -> None:
        """The ports of all workers' metaservers, by number, at `host`."""
        for pool in self._siblings.values():
            pool.close()
        self._siblings = {worker: UpstreamPool(host, port, self._shared) for worker, port in ports.items()}

    async def handle(self, client: ClientConnection, request: ClientRequest) -> None:
        """Answer a request at this worker's own port."""
        status, body = await self._answer(request, {})
        self._respond(client, request, status, body)

    async def handle_shared(self, client: ClientConnection, request: ClientRequest) -> int:
        """Answer a request to the path at the inference port; returns the status."""
        status, body = await self._answer(request, self._siblings)
        self._respond(client, request, status, body)
        return status

    async def _answer(self, request: ClientRequest, siblings: Mapping[int, UpstreamPool]) -> tuple[int, bytes]:
        """Status and body of the reply; a callback for one of `siblings` is passed on."""
        path = request.path
        own = hmac.compare_digest(path, self._callbacks.path)
        sibling = None if own or not siblings else siblings.get(_worker_in(path))
        if not own and sibling is None:
            return _refusal(404, "there is nothing here")
        problem = _problem(request)
        if problem is not None:
            # Only the worker itself can tell whether the secret is right.
            return _refusal(*problem) if own else _refusal(404, "there is nothing here")
        if sibling is not None:
            return await self._pass_on(sibling, request)
        status, words = await self._callbacks.receive(request.body)
        return (200, b'{"status":"ok"}') if status == 200 else _refusal(status, words)

    async def _pass_on(self, sibling: UpstreamPool, request: ClientRequest) -> tuple[int, bytes]:
        try:
            reply = await post(sibling, request.path, request.body, self.reply_seconds)
        except UpstreamError as error:
            logger.warning("a callback could not be passed on to the worker it is for: %s", error)
            return _refusal(502, "the worker that waits for this callback cannot be reached")
        return reply.status, reply.body

    def _respond(self, client: ClientConnection, request: ClientRequest, status: int, body: bytes) -> None:
        extra = b"Allow: POST\r\n" if status == 405 else b""
        head = self._heads.whole(request, status, JSON, len(body), (), extra)
        client.respond(head, b"" if request.method == b"HEAD" else body)

    def _refusal(self, request: ClientRequest, status: int, message: str) -> bytes:
        """The response to a request that cannot be read to its end; see `http.server.Refusal`."""
        request.keep_alive = False
        _, body = _refusal(status, message)
        return self._heads.whole(request, status, JSON, len(body)) + body


def _problem(request: ClientRequest) -> tuple[int, str] | None:
    """Why the request cannot be a callback, as status and words."""
    if request.method != b"POST":
        return 405, "use POST"
    if not request.headers.get(b"content-type", b"").lower().startswith(JSON):
        return 415, "the Content-Type must be application/json"
    if len(request.body) > BODY_LIMIT:
        return 413, f"a callback has at most {BODY_LIMIT} bytes"
    return None


def _refusal(status: int, message: str) -> tuple[int, bytes]:
    return status, ApiError(status, message).body()


def _worker_in(path: bytes) -> int:
    """The number of the worker a callback is for; -1 where there is none."""
    digits = path[len(CALLBACK_PATH) :].partition(b".")[0]
    return int(digits) if digits.isdigit() and len(digits) < 6 else -1


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on `port`, or on any free port where that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (port, 0):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, wanted))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if not wanted:
                raise
            logger.warning("callbacks cannot be taken on port %d (%s): any free port is used", wanted, error.strerror)
        else:
            return listener
    raise AssertionError("a port was bound or the second try has raised")
