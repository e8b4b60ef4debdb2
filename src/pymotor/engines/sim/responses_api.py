"""`/v1/responses`, OpenAI's, and what becomes of responses that are kept."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any
from urllib.parse import parse_qs

import msgspec

from pymotor.engines.sim.answering import EVENT_STREAM, Answering, BrokenOffError, Struck, collect, events, pause
from pymotor.engines.sim.answers import Answer, ClientGone
from pymotor.engines.sim.errors import MediaUnavailableError, RequestError
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.fields import Fields
from pymotor.engines.sim.prompts import PromptBuilder
from pymotor.engines.sim.requests import EngineDeadError
from pymotor.engines.sim.responses_input import chat_request, conversation
from pymotor.engines.sim.responses_store import VARIABLE, Kept, ResponsesStore
from pymotor.engines.sim.responses_writer import COMPLETED, ResponsesWriter

_LAST = b"event: " + COMPLETED.encode() + b"\n"


class Responses:
    """The routes of the Responses API."""

    def __init__(self, answering: Answering, prompts: PromptBuilder, store: ResponsesStore) -> None:
        self._answering = answering
        self._prompts = prompts
        self._store = store

    async def create(self, exchange: Exchange) -> None:
        """`POST /v1/responses`."""
        body, struck = await self._answering.take(exchange)
        self._check(body)
        fields = Fields(body)
        keep = self._store.enabled and fields.boolean("store", True)
        previous = fields.text("previous_response_id")
        history = self._store.get(previous).history() if previous is not None else []
        messages = conversation(body, history)
        writer = self._writer(body, messages)
        engine_id = f"{writer.identifier}_0"
        if fields.boolean("background"):
            await self._in_background(exchange, writer, self._begin(writer, engine_id, messages, struck))
            return
        if keep:
            writer.on_finished = lambda body: self._store.keep(messages, body)
        await self._answering.answer(exchange, engine_id, writer, struck)

    async def retrieve(self, exchange: Exchange) -> None:
        """`GET /v1/responses/{response_id}`."""
        kept = self._store.get(_identifier(exchange))
        query = parse_qs(exchange.query)
        if query.get("stream", ["false"])[0].lower() not in ("true", "1"):
            await exchange.respond(msgspec.json.encode(kept.body))
            return
        start = _starting_after(query) + 1
        await exchange.start(EVENT_STREAM)
        if kept.events is None:
            raise BrokenOffError  # as in vLLM: only what runs in the background and is streamed has events
        await self._relay(exchange, kept, start)

    async def cancel(self, exchange: Exchange) -> None:
        """`POST /v1/responses/{response_id}/cancel`."""
        kept = self._store.get(_identifier(exchange))
        if kept.body["status"] not in ("queued", "in_progress"):
            raise RequestError(
                "Cannot cancel a synchronous response.", kind="invalid_request_error", param="response_id"
            )
        kept.body["status"] = "cancelled"
        if kept.task is not None:
            kept.task.cancel()
        await exchange.respond(msgspec.json.encode(kept.body))

    def _check(self, body: dict[str, Any]) -> None:
        fields = Fields(body)
        if body.get("prompt") is not None:
            raise RequestError("prompt template is not supported", param="prompt")
        if not fields.boolean("background"):
            return
        if not fields.boolean("store", True):
            raise RequestError("background can only be used when `store` is true", param="background")
        if not self._store.enabled:
            raise RequestError(
                f"This engine keeps no responses, so it has no background mode. Set {VARIABLE}=1 to have both.",
                kind="invalid_request_error",
                param="background",
            )

    def _writer(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> ResponsesWriter:
        try:
            generation = self._prompts.chat(chat_request(body, messages))
        except MediaUnavailableError:
            raise
        except RequestError as error:
            raise _by_its_name_here(error, body) from error
        served = self._answering.served
        sampling = generation.sampling_for(generation.prompts[0], 0, served.max_model_len)
        identifier = Fields(body).text("request_id") or f"resp_{os.urandom(8).hex()}"
        return ResponsesWriter(
            generation,
            identifier,
            served.answers_as(generation.scope.adapter),
            int(time.time()),
            body,
            sampling.max_tokens,
        )

    def _begin(self, writer: ResponsesWriter, engine_id: str, messages: list[dict[str, Any]], struck: Struck) -> Kept:
        """Begin an answer that goes on when its client leaves."""
        kept = self._store.keep(messages, writer.response("queued", [], None))
        answer = Answer(self._answering.driver, writer.generation, engine_id, self._answering.served.max_model_len)
        writer.on_finished = kept.finish
        if writer.generation.stream:
            kept.events = []
        kept.task = asyncio.get_running_loop().create_task(_run(kept, answer, writer, struck))
        return kept

    async def _in_background(self, exchange: Exchange, writer: ResponsesWriter, kept: Kept) -> None:
        if writer.generation.stream:
            await exchange.start(EVENT_STREAM)
            await self._relay(exchange, kept, 0)
        else:
            await exchange.respond(msgspec.json.encode(kept.body))

    async def _relay(self, exchange: Exchange, kept: Kept, start: int) -> None:
        """The events of what runs in the background, until its end or the client's leaving."""
        sending = asyncio.ensure_future(_send(exchange, kept, start))
        leaving = asyncio.ensure_future(pause(exchange, None))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGone
            sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send(exchange: Exchange, kept: Kept, start: int) -> None:
    async for event in kept.replay(start, _LAST):
        await exchange.part(event)
    await exchange.end()


async def _run(kept: Kept, answer: Answer, writer: ResponsesWriter, struck: Struck) -> None:
    """Compute an answer in the background."""
    try:
        with answer:
            if kept.events is None:
                await collect(answer, struck)
                writer.whole(answer.choices)
            else:
                async for event in events(answer, writer, struck):
                    kept.add(event)
    except (RequestError, EngineDeadError, BrokenOffError):
        kept.body["status"] = "failed"


def _starting_after(query: dict[str, list[str]]) -> int:
    """The number of the last event that is not wanted."""
    text = query.get("starting_after", ["-1"])[0]
    try:
        return int(text)
    except ValueError as error:
        param = "query.starting_after"
        raise RequestError(f"Input should be a valid integer: {param}", kind="Bad Request", param=param) from error


def _identifier(exchange: Exchange) -> str:
    return exchange.path.split("/")[3]


def _by_its_name_here(error: RequestError, body: dict[str, Any]) -> RequestError:
    """A refusal that speaks of a chat's field, in this API's words; too few tokens are refused by chat's name."""
    names = {"body.messages": "body.input", "body.max_tokens": "body.max_output_tokens"}
    if body.get("max_output_tokens"):
        names["max_tokens"] = "max_output_tokens"
    param = names.get(error.param or "", error.param)
    return RequestError(str(error), status=error.status, kind=error.kind, param=param)
