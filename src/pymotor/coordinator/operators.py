"""Requests of operators at the inference port, which the supervisor answers because it alone knows the fleet.

A worker passes them on over the control channel (`OperatorLine`) and the supervisor hands them to whoever answers
them (`OperatorDesk`). A Coordinator without such paths has none of this to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import msgspec

from pymotor.coordinator.control import OperatorReply, OperatorRequest

if TYPE_CHECKING:
    from pymotor.coordinator.admin import Overview
    from pymotor.coordinator.http.client_request import ClientRequest

logger = logging.getLogger(__name__)

BODY_LIMIT = 1024 * 1024
"""Bytes an operator's request may have: ten thousand engines are a quarter of that."""
_UNDER_WAY = 64
"""Requests that the supervisor answers at once; others are told to come again."""


class Operator(Protocol):
    """Answers operators' requests in the supervisor's process."""

    paths: tuple[str, ...]
    """Those it answers, in place of whatever a worker would."""

    def attended(self, overview: Overview) -> AbstractAsyncContextManager[None]:
        """It is asked only inside of this block, and learns the fleet's state from `overview`."""
        ...

    async def answer(self, request: OperatorRequest) -> OperatorReply:
        """The reply; its number does not matter. Raises nothing that could have been foreseen."""
        ...


class OperatorDesk:
    """Has an `Operator` answer what workers pass on; the supervisor's side."""

    def __init__(self, operator: Operator | None) -> None:
        self._operator = operator
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def attended(self, overview: Overview) -> AsyncIterator[None]:
        """Requests are answered as long as the block runs."""
        if self._operator is None:
            yield
            return
        async with self._operator.attended(overview):
            try:
                yield
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def take(self, request: OperatorRequest, reply: Callable[[OperatorReply], None]) -> None:
        """Answer a request, by and by."""
        operator = self._operator
        if operator is None or len(self._tasks) >= _UNDER_WAY:
            reply(_refusal(request.number, 503, "too many operators' requests at once; try again"))
            return

        async def answer() -> None:
            try:
                found = await operator.answer(request)
            except Exception:
                logger.exception("%s %s failed for no reason foreseen", request.method, request.path)
                found = _refusal(request.number, 500, "the gateway failed on this request; its log says why")
            reply(msgspec.structs.replace(found, number=request.number))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class OperatorLine:
    """Asks the supervisor; a worker's side."""

    __slots__ = ("_loop", "_numbers", "_waiting", "paths", "send")

    def __init__(self, paths: tuple[str, ...], loop: asyncio.AbstractEventLoop) -> None:
        """`paths` are those that the supervisor answers."""
        self.paths = frozenset(path.encode() for path in paths)
        self.send: Callable[[OperatorRequest], None] = lambda _request: None
        """Puts a request on the control channel."""
        self._loop = loop
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[OperatorReply]] = {}

    async def ask(self, request: ClientRequest, peer: str, reached_at: str) -> OperatorReply:
        """The supervisor's reply to a request of the client at `peer`, which dialled our address `reached_at`."""
        if len(request.body) > BODY_LIMIT:
            return _refusal(0, 413, f"a request to this path has at most {BODY_LIMIT} bytes")
        number = next(self._numbers)
        waiting: asyncio.Future[OperatorReply] = self._loop.create_future()
        self._waiting[number] = waiting
        try:
            self.send(
                OperatorRequest(
                    number=number,
                    method=request.method.decode("latin-1"),
                    path=request.path.decode("latin-1"),
                    query=request.query.decode("latin-1"),
                    headers={
                        name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()
                    },
                    body=bytes(request.body),
                    peer=peer,
                    reached_at=reached_at,
                )
            )
            return await waiting
        finally:
            del self._waiting[number]

    def take(self, reply: OperatorReply) -> None:
        """A reply has come; whoever asked may be gone."""
        waiting = self._waiting.get(reply.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)


def _refusal(number: int, status: int, words: str) -> OperatorReply:
    return OperatorReply(number=number, status=status, body=msgspec.json.encode({"error": words}))
