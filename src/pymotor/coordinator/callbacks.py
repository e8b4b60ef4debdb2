"""Decode engines' callbacks: who is waited for, and what each of them is told.

A decode engine of the callback dialect posts where its KV cache blocks are to the worker that sent it the request,
and takes the reply as the end of prefill's work. Protocol: vLLM-Ascend's MooncakeLayerwiseConnector.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE

logger = logging.getLogger(__name__)

CALLBACK_PATH = b"/v1/metaserver/"


class _Callback(msgspec.Struct):
    request_id: str


_decoder = msgspec.json.Decoder(_Callback)


class Awaited:
    """The callbacks of one decode leg, one for each of its prompts."""

    __slots__ = ("arrived", "bodies", "ids", "outcome")

    def __init__(self, ids: Sequence[str], loop: asyncio.AbstractEventLoop) -> None:
        self.ids = tuple(ids)
        self.bodies: dict[str, bytes] = {}
        """By request id, as they came: JSON objects."""
        self.arrived: asyncio.Future[None] = loop.create_future()
        """Done when all have called."""
        self.outcome: asyncio.Future[bool] = loop.create_future()
        """Whether prefill has written the KV cache; what those who called are told."""

    def take(self, request_id: str, body: bytes) -> None:
        """One has called. The first body counts: a repeated callback waits for the same outcome."""
        self.bodies.setdefault(request_id, body)
        if len(self.bodies) == len(self.ids) and not self.arrived.done():
            self.arrived.set_result(None)

    def settle(self, written: bool) -> None:
        """Those who called are told; nothing after the first time."""
        if not self.outcome.done():
            self.outcome.set_result(written)


class Callbacks:
    """All callbacks that one worker waits for."""

    __slots__ = ("_awaited", "_loop", "path", "url")

    def __init__(self, worker: int, loop: asyncio.AbstractEventLoop) -> None:
        """`worker` is its number, by which siblings know whose a callback is."""
        self._loop = loop
        self._awaited: dict[str, Awaited] = {}
        self.path = b"%b%d.%b" % (CALLBACK_PATH, worker, secrets.token_hex(16).encode())
        """With a secret that only those know whom this worker has sent a request."""
        self.url = ""
        """Where decode engines reach it, or empty as long as nobody listens."""

    def __len__(self) -> int:
        return len(self._awaited)

    @contextmanager
    def expect(self, ids: Sequence[str]) -> Iterator[Awaited]:
        """Wait for callbacks of these requests of an engine, as long as the block runs. Afterwards they are
        unknown."""
        awaited = Awaited(ids, self._loop)
        self._awaited.update(dict.fromkeys(ids, awaited))
        try:
            yield awaited
        finally:
            for request_id in ids:
                del self._awaited[request_id]
            awaited.settle(False)

    async def receive(self, body: bytes) -> tuple[int, str]:
        """Take one callback and wait until prefill is through with it: status and words for the reply.

        404 for a request that nobody waits for (any more), 502 when its KV cache will not come.
        """
        try:
            request_id = _decoder.decode(body).request_id
        except UNREADABLE as error:
            return 400, f"the callback is no JSON object with a request_id: {error}"
        awaited = self._awaited.get(request_id)
        if awaited is None:
            logger.info("a callback came for %.200r, which nobody waits for: it is late, or repeated", request_id)
            return 404, "no request with this request_id is waited for"
        awaited.take(request_id, body)
        # Shielded: other callbacks wait for the same.
        if await asyncio.shield(awaited.outcome):
            return 200, "ok"
        return 502, "prefill has not written the KV cache of this request"
