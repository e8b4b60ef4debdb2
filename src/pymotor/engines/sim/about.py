"""What an engine says of itself: health, models, tokens, metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.adapters import Adapter
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.fields import Fields, invalid
from pymotor.engines.sim.metrics import EngineMetrics
from pymotor.engines.sim.prompts import PromptBuilder


@dataclass(frozen=True, kw_only=True)
class Served:
    """An engine's identity."""

    model: str
    """As on the command line."""
    names: tuple[str, ...]
    """Names clients may ask for; the first is what answers say."""
    version: str
    max_model_len: int
    fingerprint: str
    prompt_tokens_details: bool
    created: int
    data_parallel_size: int = 1
    adapters: tuple[Adapter, ...] = ()

    def answers_as(self, adapter: Adapter | None) -> str:
        """The model that an answer names."""
        return self.names[0] if adapter is None else adapter.name

    def check_model(self, fields: Fields) -> None:
        """Raise `RequestError` with 404 when a request asks for a model that is not served."""
        model = fields.text("model")
        if model and model not in self.names and all(model != adapter.name for adapter in self.adapters):
            raise RequestError(
                f"The model `{model}` does not exist. Valid aliases: {', '.join(self.names)}.",
                status=404,
                kind="NotFoundError",
                param="model",
            )


class About:
    """The routes that need no engine step."""

    def __init__(
        self,
        served: Served,
        driver: EngineDriver,
        prompts: PromptBuilder,
        metrics: EngineMetrics,
        event_sources: Mapping[str, Any],
    ) -> None:
        """`event_sources`: where KV events are sent, by data-parallel rank."""
        self._served = served
        self._driver = driver
        self._prompts = prompts
        self._metrics = metrics
        self._event_sources = event_sources

    async def health(self, exchange: Exchange) -> None:
        """200, or 503 when the core is dead."""
        await exchange.respond(b"", 503 if self._driver.dead else 200, content_type=None)

    async def version(self, exchange: Exchange) -> None:
        """The version."""
        await exchange.respond(msgspec.json.encode({"version": self._served.version}))

    async def metrics(self, exchange: Exchange) -> None:
        """Prometheus text."""
        text = self._metrics.render(self._driver.core)
        await exchange.respond(text.encode(), content_type=b"text/plain; version=0.0.4; charset=utf-8")

    async def kv_event_sources(self, exchange: Exchange) -> None:
        """Where KV events are sent, by data-parallel rank; nothing where none are."""
        await exchange.respond(msgspec.json.encode(self._event_sources))

    async def models(self, exchange: Exchange) -> None:
        """A card for each name."""
        served = self._served
        cards: list[dict[str, object]] = [
            {
                "id": name,
                "object": "model",
                "created": served.created,
                "owned_by": "vllm",
                "root": served.model,
                "parent": None,
                "max_model_len": served.max_model_len,
                "permission": [_permission(served.created)],
            }
            for name in served.names
        ]
        cards += [
            {
                "id": adapter.name,
                "object": "model",
                "created": served.created,
                "owned_by": "vllm",
                "root": adapter.path,
                "parent": served.names[0],
                "max_model_len": None,
                "permission": [_permission(served.created)],
            }
            for adapter in served.adapters
        ]
        await exchange.respond(msgspec.json.encode({"object": "list", "data": cards}))

    async def tokenize(self, exchange: Exchange) -> None:
        """The token ids of a prompt or a chat."""
        fields = Fields(await exchange.json())
        self._served.check_model(fields)
        if "messages" in fields.body:
            tokens = self._prompts.chat_prompt(fields).tokens.tolist()
        else:
            text = fields.text("prompt")
            if text is None:
                raise invalid("prompt", "Field required")
            tokens = tokenizer.encode(text).tolist()
        texts = [tokenizer.token_text(token) for token in tokens] if fields.boolean("return_token_strs") else None
        limit = self._served.max_model_len
        reply = {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": texts}
        await exchange.respond(msgspec.json.encode(reply))

    async def detokenize(self, exchange: Exchange) -> None:
        """The text of token ids."""
        fields = Fields(await exchange.json())
        self._served.check_model(fields)
        try:
            text = tokenizer.decode(_token_ids(fields.body.get("tokens")), keep_special=True)
        except ValueError as error:
            raise RequestError(str(error), param="tokens") from error
        await exchange.respond(msgspec.json.encode({"prompt": text}))


def _token_ids(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise invalid("tokens", "Field required" if value is None else "Input should be a valid list")
    for index, token in enumerate(value):
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise invalid(f"tokens.{index}", "Input should be a whole number, 0 or more")
    return value


def _permission(created: int) -> dict[str, object]:
    return {
        "id": f"modelperm-{os.urandom(16).hex()}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
