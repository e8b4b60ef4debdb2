"""Answers to requests that generate: from the checked body to the last byte, with whatever faults are wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymotor.engines.sim.about import Served
from pymotor.engines.sim.answers import Answer, ClientGone
from pymotor.engines.sim.chat_template import Prompt
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.faults import Fault, Faults, Stage
from pymotor.engines.sim.fields import Fields
from pymotor.engines.sim.prompts import reading
from pymotor.engines.sim.requests import EngineDeadError, Output
from pymotor.engines.sim.writers import Choice, Writer

EVENT_STREAM = b"text/event-stream; charset=utf-8"
DEAD_MESSAGE = "EngineCore encountered an issue. See stack trace (above) for the root cause."
FAILED_MESSAGE = "Internal server error"
_BETWEEN_PIECES = 0.001
"""Seconds between pieces of a split event, so that they leave in separate segments."""

Struck = dict[str, Fault]
"""The faults that strike a request, by kind."""


class BrokenOffError(Exception):
    """A stream that fails without saying so: what was written goes out, then the connection is closed."""


class Answering:
    """Takes requests in and answers them."""

    def __init__(
        self, served: Served, driver: EngineDriver, faults: Faults, refuse: Callable[[float], Awaitable[None]]
    ) -> None:
        self.served = served
        self.driver = driver
        self._faults = faults
        self._refuse = refuse
        self._refusals: set[asyncio.Future[None]] = set()
        self.active = 0
        """Requests being answered."""

    async def take(self, exchange: Exchange) -> tuple[dict[str, Any], Struck]:
        """A request's body, and the faults that strike it later; those that strike at once do so here.

        Raises `RequestError` when it cannot be for this engine, `EngineDeadError`, `ClientGone`.
        """
        struck = self._faults.take(Stage.REQUEST, exchange.path)
        body = await exchange.json()
        if struck:
            await self._strike(exchange, struck)
        self.served.check_model(Fields(body))
        if self.driver.dead:
            raise EngineDeadError
        return body, struck

    def check_rank(self, exchange: Exchange) -> None:
        """A rank that is no number is passed over, as in vLLM; one that does not exist is refused."""
        ranks, rank = self.served.data_parallel_size, exchange.header(b"x-data-parallel-rank")
        if rank is not None and rank.strip().isdecimal() and int(rank) >= ranks:
            raise RequestError(f"data_parallel_rank {int(rank)} is out of range [0, {ranks}).")

    async def answer(self, exchange: Exchange, engine_id: str, writer: Writer, struck: Struck) -> None:
        """Generate and write. `engine_id` names the request in the engine."""
        generation = writer.generation
        answer = Answer(self.driver, generation, engine_id, self.served.max_model_len)
        async with self._answered(exchange, answer):
            if generation.stream:
                await _Stream(exchange, struck).run(events(answer, writer, struck))
            else:
                await _whole(exchange, writer, answer, struck)

    async def read(self, exchange: Exchange, prompts: Sequence[Prompt], engine_id: str) -> None:
        """Let the engine read prompts that it is not to answer.

        Raises `RequestError`, `EngineDeadError`, `ClientGone`.
        """
        answer = Answer(self.driver, reading(tuple(prompts)), engine_id, self.served.max_model_len)
        async with self._answered(exchange, answer):
            await collect(answer, {})

    @asynccontextmanager
    async def _answered(self, exchange: Exchange, answer: Answer) -> AsyncIterator[None]:
        """Run an answer for as long as its client is there."""
        connection = exchange.connection
        if connection.transport.is_closing():
            raise ClientGone
        connection.on_lost = answer.client_gone
        self.active += 1
        try:
            with answer:
                yield
        finally:
            self.active -= 1
            connection.on_lost = None

    async def _strike(self, exchange: Exchange, struck: Struck) -> None:
        """The faults that strike before the request is looked at."""
        if "slow" in struck:
            await pause(exchange, struck["slow"].seconds)
        if "refuse" in struck:
            refusal = asyncio.ensure_future(self._refuse(struck["refuse"].seconds))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
            raise ClientGone
        if "reset" in struck:
            exchange.connection.reset()
            raise ClientGone
        if "hang" in struck:
            await pause(exchange, None)
        if "die" in struck:
            self.driver.die("a fault was asked for")
        if "error" in struck:
            code = struck["error"].code
            raise RequestError("simulated fault", status=code, kind="InternalServerError")


async def pause(exchange: Exchange, seconds: float | None) -> None:
    """Wait, for ever if `seconds` is None. Raises `ClientGone` as soon as the client is."""
    gone = asyncio.get_running_loop().create_future()
    connection = exchange.connection
    connection.on_lost = lambda: None if gone.done() else gone.set_result(None)
    try:
        if not connection.transport.is_closing():
            await asyncio.wait_for(gone, seconds)
    except asyncio.TimeoutError:
        return
    finally:
        connection.on_lost = None
    raise ClientGone


async def collect(answer: Answer, struck: Struck) -> None:
    """Wait for all choices. Raises `RequestError` or `EngineDeadError` when one fails, `ClientGone`."""
    if "late_error" in struck:
        raise RequestError(FAILED_MESSAGE, status=500, kind="InternalServerError")
    while answer.unfinished:
        choice, output = await answer.next()
        if output.finish_reason == "error":
            raise RequestError(FAILED_MESSAGE, status=500, kind="InternalServerError")
        if output.finish_reason == "dead":
            raise EngineDeadError
        output = _recomputed(choice, output, struck)
        choice.take(output, 0)
        if output.stop_reason == "recomputed":
            return


async def events(answer: Answer, writer: Writer, struck: Struck) -> AsyncIterator[bytes]:
    """The events of a stream. Raises `BrokenOffError` where one fails and the API has no word for it, `ClientGone`."""
    for event in writer.greeting():
        yield event
    sampling = writer.generation.sampling
    held = 0 if sampling.include_stop else max((len(stop) - 1 for stop in sampling.stop), default=0)
    opened = False
    failed: str | None = None
    while answer.unfinished:
        choice, output = await answer.next()
        if output.finish_reason == "dead":
            failed = DEAD_MESSAGE
            break
        if not opened:
            opened = True
            for event in writer.opening():
                yield event
        if output.finish_reason == "error" or "late_error" in struck:
            failed = FAILED_MESSAGE
            break
        output = _recomputed(choice, output, struck)
        for event in writer.delta(choice, choice.take(output, held), output):
            yield event
        if output.stop_reason == "recomputed":
            break
    last = writer.closing(answer.choices) if failed is None else writer.failure(failed)
    if last is None:
        raise BrokenOffError
    for event in last:
        yield event


async def _whole(exchange: Exchange, writer: Writer, answer: Answer, struck: Struck) -> None:
    """An answer in one piece."""
    await collect(answer, struck)
    body = writer.whole(answer.choices)
    if "exit" in struck:
        os._exit(1)
    if "stall" in struck:
        await pause(exchange, None)
    if "cut" in struck:
        await exchange.start(b"application/json", len(body))
        await exchange.part(body[: len(body) // 2])
        exchange.connection.reset()
        raise ClientGone
    await exchange.respond(body)


class _Stream:
    """Sends server-sent events, the way faults want it."""

    def __init__(self, exchange: Exchange, struck: Struck) -> None:
        self._exchange = exchange
        self._struck = struck
        self._events = 0
        self._held: list[bytes] = []

    async def run(self, events: AsyncIterator[bytes]) -> None:
        """Headers go out before the engine said anything, as vLLM's do: a 200 proves nothing."""
        await self._exchange.start(EVENT_STREAM)
        async for event in events:
            await self._send(event)
        await self._flush()
        await self._exchange.end()

    async def _send(self, event: bytes) -> None:
        struck = self._struck
        if not struck:
            await self._exchange.part(event)
            return
        await self._break_off()
        self._events += 1
        self._held.append(event)
        if "merge" not in struck or len(self._held) >= struck["merge"].events:
            await self._flush()

    async def _break_off(self) -> None:
        """Do what was wanted after so many events."""
        for kind in ("cut", "stall", "exit"):
            fault = self._struck.get(kind)
            if fault is None or self._events < fault.after:
                continue
            await self._flush()
            if kind == "stall":
                await pause(self._exchange, None)
            await asyncio.sleep(_BETWEEN_PIECES)
            if kind == "exit":
                os._exit(1)
            self._exchange.connection.reset()
            raise ClientGone

    async def _flush(self) -> None:
        data, self._held = b"".join(self._held), []
        size = self._struck["split"].bytes if "split" in self._struck else 0
        if not size:
            if data:
                await self._exchange.part(data)
            return
        for start in range(0, len(data), size):
            await self._exchange.part(data[start : start + size])
            await asyncio.sleep(_BETWEEN_PIECES)


def _recomputed(choice: Choice, output: Output, struck: Struck) -> Output:
    """The output, or in its place the end that vllm-ascend's recompute scheduler writes."""
    fault = struck.get("recomputed")
    if fault is None or len(choice.tokens) < fault.after:
        return output
    return Output(output.request, finish_reason="stop", stop_reason="recomputed")
