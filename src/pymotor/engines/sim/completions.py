"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from pymotor.engines.sim.answering import Answering
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.prompts import Generation, PromptBuilder
from pymotor.engines.sim.replies import OpenAIWriter


class Completions:
    """OpenAI's routes that generate."""

    def __init__(self, answering: Answering, prompts: PromptBuilder) -> None:
        self._answering = answering
        self._prompts = prompts

    async def chat(self, exchange: Exchange) -> None:
        """`/v1/chat/completions`."""
        await self._answer(exchange, "chatcmpl", self._prompts.chat)

    async def completion(self, exchange: Exchange) -> None:
        """`/v1/completions`."""
        await self._answer(exchange, "cmpl", self._prompts.completion)

    async def _answer(self, exchange: Exchange, prefix: str, build: Callable[[dict[str, Any]], Generation]) -> None:
        body, struck = await self._answering.take(exchange)
        self._answering.check_rank(exchange)
        generation = build(body)
        base = exchange.header(b"x-request-id") or generation.request_id or os.urandom(16).hex()
        identifier = f"{prefix}-{base}"
        served = self._answering.served
        writer = OpenAIWriter(
            generation,
            identifier,
            served.answers_as(generation.scope.adapter),
            int(time.time()),
            served.fingerprint,
            served.prompt_tokens_details,
        )
        await self._answering.answer(exchange, identifier, writer, struck)
