"""Chat and text completions: from a checked body to the last byte, with whatever faults are wanted."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from pymotor.engines.sim.about import Served
from pymotor.engines.sim.answers import Answer, ClientGone
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.errors import RequestError, error_body
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.faults import Fault, Faults, Stage
from pymotor.engines.sim.fields import Fields
from pymotor.engines.sim.prompts import Generation, PromptBuilder
from pymotor.engines.sim.replies import DONE, Choice, Writer
from pymotor.engines.sim.requests import EngineDeadError, Output

EVENT_STREAM = b"text/event-stream; charset=utf-8"
DEAD_MESSAGE = "EngineCore encountered an issue. See stack trace (above) for the root cause."
FAILED_MESSAGE = "Internal server error"
_BETWEEN_PIECES = 0.001
"""Seconds between pieces of a split event, so that they leave in separate segments."""


class Completions:
    """The routes that generate."""

    def __init__(
        self,
        served: Served,
        driver: EngineDriver,
        prompts: PromptBuilder,
        faults: Faults,
        refuse: Callable[[float], Awaitable[None]],
    ) -> None:
        self._served = served
        self._driver = driver
        self._prompts = prompts
        self._faults = faults
        self._refuse = refuse
        self._refusals: set[asyncio.Future[None]] = set()
        self.active = 0
        """Requests being answered."""

    async def chat(self, exchange: Exchange) -> None:
        """`/v1/chat/completions`."""
        await self._answer(exchange, "chatcmpl", self._prompts.chat)

    async def completion(self, exchange: Exchange) -> None:
        """`/v1/completions`."""
        await self._answer(exchange, "cmpl", self._prompts.completion)

    async def _answer(
        self, exchange: Exchange, prefix: str, build: Callable[[dict[str, object], int], Generation]
    ) -> None:
        struck = self._faults.take(Stage.REQUEST, exchange.path)
        body = await exchange.json()
        if struck:
            await self._strike(exchange, struck)
        self._served.check_model(Fields(body))
        self._check_rank(exchange.header(b"x-data-parallel-rank"))
        if self._driver.dead:
            raise EngineDeadError
        generation = build(body, int.from_bytes(os.urandom(8), "little"))
        base = exchange.header(b"x-request-id") or generation.request_id or os.urandom(16).hex()
        identifier = f"{prefix}-{base}"
        served = self._served
        writer = Writer(
            generation,
            identifier,
            served.names[0],
            int(time.time()),
            served.fingerprint,
            served.prompt_tokens_details,
        )
        answer = Answer(self._driver, generation, identifier, served.max_model_len)
        connection = exchange.connection
        if connection.transport.is_closing():
            raise ClientGone
        connection.on_lost = answer.client_gone
        self.active += 1
        try:
            with answer:
                if generation.stream:
                    await _Stream(exchange, generation, writer, struck).run(answer)
                else:
                    await _whole(exchange, writer, answer, struck)
        finally:
            self.active -= 1
            connection.on_lost = None

    def _check_rank(self, rank: str | None) -> None:
        """A rank that is no number is passed over, as in vLLM; one that does not exist is refused."""
        ranks = self._served.data_parallel_size
        if rank is not None and rank.strip().isdecimal() and int(rank) >= ranks:
            raise RequestError(f"data_parallel_rank {int(rank)} is out of range [0, {ranks}).")

    async def _strike(self, exchange: Exchange, struck: dict[str, Fault]) -> None:
        """The faults that strike before the request is looked at."""
        if "slow" in struck:
            await _pause(exchange, struck["slow"].seconds)
        if "refuse" in struck:
            refusal = asyncio.ensure_future(self._refuse(struck["refuse"].seconds))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
            raise ClientGone
        if "reset" in struck:
            exchange.connection.reset()
            raise ClientGone
        if "hang" in struck:
            await _pause(exchange, None)
        if "die" in struck:
            self._driver.die("a fault was asked for")
        if "error" in struck:
            code = struck["error"].code
            raise RequestError("simulated fault", status=code, kind="InternalServerError")


async def _pause(exchange: Exchange, seconds: float | None) -> None:
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


async def _whole(exchange: Exchange, writer: Writer, answer: Answer, struck: dict[str, Fault]) -> None:
    """An answer in one piece."""
    kv_params, ec_params = None, None
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
        if output.finish_reason is not None and choice.index == 0:
            kv_params, ec_params = output.kv_transfer_params, output.ec_transfer_params
        if output.stop_reason == "recomputed":
            break
    body = writer.whole(answer.choices, kv_params, ec_params)
    if "exit" in struck:
        os._exit(1)
    if "stall" in struck:
        await _pause(exchange, None)
    if "cut" in struck:
        await exchange.start(b"application/json", len(body))
        await exchange.part(body[: len(body) // 2])
        exchange.connection.reset()
        raise ClientGone
    await exchange.respond(body)


class _Stream:
    """An answer as server-sent events."""

    def __init__(self, exchange: Exchange, generation: Generation, writer: Writer, struck: dict[str, Fault]) -> None:
        self._exchange = exchange
        self._generation = generation
        self._writer = writer
        self._struck = struck
        self._events = 0
        self._held: list[bytes] = []

    async def run(self, answer: Answer) -> None:
        """Headers go out before the engine said anything, as vLLM's do: a 200 proves nothing."""
        await self._exchange.start(EVENT_STREAM)
        await self._run(answer)
        await self._send(DONE)
        await self._flush()
        await self._exchange.end()

    async def _run(self, answer: Answer) -> None:
        sampling = self._generation.sampling
        held = 0 if sampling.include_stop else max((len(stop) - 1 for stop in sampling.stop), default=0)
        opened = False
        while answer.unfinished:
            choice, output = await answer.next()
            if output.finish_reason == "dead":
                await self._send(_error_event(DEAD_MESSAGE))
                return
            if not opened:
                opened = True
                for event in self._writer.opening():
                    await self._send(event)
            if output.finish_reason == "error" or "late_error" in self._struck:
                await self._send(_error_event(FAILED_MESSAGE))
                return
            output = _recomputed(choice, output, self._struck)
            text = choice.take(output, held)
            delta = self._writer.delta(choice, text, output)
            if delta is not None:
                await self._send(delta)
            if output.stop_reason == "recomputed":
                break
        for event in self._writer.closing(answer.choices):
            await self._send(event)

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
                await _pause(self._exchange, None)
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


def _recomputed(choice: Choice, output: Output, struck: dict[str, Fault]) -> Output:
    """The output, or in its place the end that vllm-ascend's recompute scheduler writes."""
    fault = struck.get("recomputed")
    if fault is None or len(choice.tokens) < fault.after:
        return output
    return Output(output.request, finish_reason="stop", stop_reason="recomputed")


def _error_event(message: str) -> bytes:
    return b"data: " + error_body(message, "InternalServerError", None, 500) + b"\n\n"
