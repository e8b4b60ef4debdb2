"""`/v1/messages` and `/v1/messages/count_tokens`, Anthropic's."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import msgspec

from pymotor.engines.sim.answering import DEAD_MESSAGE, Answering
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.fields import Fields
from pymotor.engines.sim.messages_input import chat_request, conversation
from pymotor.engines.sim.messages_writer import MessagesWriter, error_body
from pymotor.engines.sim.prompts import PromptBuilder
from pymotor.engines.sim.requests import EngineDeadError


class Messages:
    """Anthropic's routes."""

    def __init__(self, answering: Answering, prompts: PromptBuilder) -> None:
        self._answering = answering
        self._prompts = prompts

    async def create(self, exchange: Exchange) -> None:
        """`/v1/messages`."""
        await _in_its_own_words(exchange, self._create)

    async def count_tokens(self, exchange: Exchange) -> None:
        """`/v1/messages/count_tokens`."""
        await _in_its_own_words(exchange, self._count_tokens)

    async def _create(self, exchange: Exchange) -> None:
        body, struck = await self._answering.take(exchange)
        chat = chat_request(body)
        self._answering.check_rank(exchange)
        generation = self._prompts.chat(chat)
        identifier = f"chatcmpl-{exchange.header(b'x-request-id') or os.urandom(16).hex()}"
        served = self._answering.served
        writer = MessagesWriter(
            generation, identifier, served.answers_as(generation.scope.adapter), served.prompt_tokens_details
        )
        await self._answering.answer(exchange, identifier, writer, struck)

    async def _count_tokens(self, exchange: Exchange) -> None:
        body, _ = await self._answering.take(exchange)
        prompt = self._prompts.checked(self._prompts.chat_prompt(Fields(conversation(body))))
        count = len(prompt.tokens)
        reply = {"input_tokens": count, "context_management": {"original_input_tokens": count}}
        await exchange.respond(msgspec.json.encode(reply))


async def _in_its_own_words(exchange: Exchange, handle: Callable[[Exchange], Awaitable[None]]) -> None:
    """Handle a request; refusals get Anthropic's form, except of bodies that do not validate.

    vLLM answers for these before its Anthropic layer sees them.
    """
    try:
        await handle(exchange)
    except RequestError as error:
        if error.kind == "Bad Request":
            raise
        await exchange.respond(error_body(error.kind, str(error)), error.status)
    except EngineDeadError:
        await exchange.respond(error_body("InternalServerError", DEAD_MESSAGE), 500)
