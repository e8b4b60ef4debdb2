"""The routes of an engine that pools: embeddings, classes and scores instead of text, as vLLM 0.32 words them."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from pymotor.engines.sim import pooling_numbers as numbers
from pymotor.engines.sim.answering import Answering
from pymotor.engines.sim.chat_template import Prompt
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.fields import Fields
from pymotor.engines.sim.pooling_input import PoolingInput, media_of

EMBED, CLASSIFY = "embed", "classify"

Handler = Callable[[Exchange], Awaitable[None]]


class Pooling:
    """The routes of an engine with `--runner pooling`. `task`: `embed` or `classify`; `labels`: a classifier's."""

    def __init__(self, answering: Answering, inputs: PoolingInput, task: str, labels: int) -> None:
        self._answering = answering
        self._inputs = inputs
        self._task = task
        self._labels = labels

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Those that fit the model; a classifier scores pairs only with one label."""
        routes: dict[str, Handler] = {"/pooling": self.pooling}
        if self._task == EMBED:
            routes["/v1/embeddings"] = self.embeddings
        else:
            routes["/classify"] = self.classify
        if self._task == EMBED or self._labels == 1:
            routes |= dict.fromkeys(("/score", "/v1/score"), self.score)
            routes |= dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), self.rerank)
        return {("POST", path): handler for path, handler in routes.items()}

    async def embeddings(self, exchange: Exchange) -> None:
        """`/v1/embeddings`."""
        fields = await self._take(exchange)
        if fields.body.get("dimensions") is not None:
            raise RequestError(f"Model '{self._answering.served.model}' does not support Matryoshka embeddings.")
        prompts = self._inputs.prompts(fields)
        await self._compute(exchange, prompts)
        data = [
            {"index": index, "object": "embedding", "embedding": _encoded(numbers.vector(prompt).tolist(), fields)}
            for index, prompt in enumerate(prompts)
        ]
        await self._list(exchange, fields, "embd", data, _tokens(prompts))

    async def pooling(self, exchange: Exchange) -> None:
        """`/pooling`."""
        fields = await self._take(exchange)
        task = fields.text("task")
        if task is not None and task != self._task:
            raise RequestError(f"Unsupported task: {task!r} Supported tasks: ('{self._task}',)", param="task")
        prompts = self._inputs.prompts(fields)
        await self._compute(exchange, prompts)
        data = [
            {"index": index, "object": "pooling", "data": _encoded(self._pooled(prompt), fields)}
            for index, prompt in enumerate(prompts)
        ]
        await self._list(exchange, fields, "pool", data, _tokens(prompts))

    async def classify(self, exchange: Exchange) -> None:
        """`/classify`."""
        fields = await self._take(exchange)
        prompts = self._inputs.prompts(fields)
        await self._compute(exchange, prompts)
        data = []
        for index, prompt in enumerate(prompts):
            probabilities = numbers.probabilities(prompt, self._labels)
            label = f"LABEL_{probabilities.index(max(probabilities))}"
            data.append({"index": index, "label": label, "probs": probabilities, "num_classes": len(probabilities)})
        await self._list(exchange, fields, "classify", data, _tokens(prompts))

    async def score(self, exchange: Exchange) -> None:
        """`/score` and `/v1/score`."""
        fields = await self._take(exchange)
        scores, tokens = await self._scores(exchange, *self._inputs.pairs(fields))
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
        await self._list(exchange, fields, "score", data, tokens)

    async def rerank(self, exchange: Exchange) -> None:
        """`/rerank`, `/v1/rerank` and `/v2/rerank`."""
        fields = await self._take(exchange)
        top = fields.integer("top_n", 0, 0) or None
        query, documents = self._inputs.query_and_documents(fields)
        scores, tokens = await self._scores(exchange, [query], [prompt for _, prompt in documents])
        results: list[dict[str, Any]] = [
            {
                "index": index,
                "document": {"text": given if isinstance(given, str) else None, "multi_modal": media_of(given)},
                "relevance_score": score,
            }
            for index, ((given, _), score) in enumerate(zip(documents, scores, strict=True))
        ]
        results.sort(key=lambda result: result["relevance_score"], reverse=True)
        reply = {
            "id": _identifier(exchange, fields, "score"),
            "model": self._answering.served.names[0],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": results[:top],
        }
        await exchange.respond(msgspec.json.encode(reply))

    async def _take(self, exchange: Exchange) -> Fields:
        try:
            body, _ = await self._answering.take(exchange)
        except RequestError as error:
            if error.status != 404:
                raise
            raise RequestError(str(error).partition(" Valid")[0], status=404, kind="NotFoundError") from error
        if "normalize" in body:
            raise RequestError("Parameter `normalize` was removed; use `use_activation` instead.", param="normalize")
        return Fields(body)

    async def _scores(
        self, exchange: Exchange, ones: Sequence[Prompt], others: Sequence[Prompt]
    ) -> tuple[list[float], int]:
        """The scores of pairs, and the tokens they took: a cross-encoder reads each pair, an embedder each text."""
        pairs = list(zip(list(ones) * len(others) if len(ones) == 1 else ones, others, strict=True))
        await self._compute(exchange, [*ones, *others])
        if self._task == EMBED:
            return [numbers.similarity(*pair) for pair in pairs], _tokens([*ones, *others])
        return [numbers.relevance(*pair) for pair in pairs], sum(_tokens(pair) for pair in pairs)

    async def _compute(self, exchange: Exchange, prompts: Sequence[Prompt]) -> None:
        """Let the engine read the prompts, so that they take their time and fail when it does."""
        await self._answering.read(exchange, prompts, os.urandom(8).hex())

    def _pooled(self, prompt: Prompt) -> list[float]:
        if self._task == CLASSIFY:
            return numbers.probabilities(prompt, self._labels)
        pooled: list[float] = numbers.vector(prompt).tolist()
        return pooled

    async def _list(
        self, exchange: Exchange, fields: Fields, prefix: str, data: list[dict[str, Any]], tokens: int
    ) -> None:
        reply = {
            "id": _identifier(exchange, fields, prefix),
            "object": "list",
            "created": int(time.time()),
            "model": self._answering.served.names[0],
            "data": data,
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
        }
        await exchange.respond(msgspec.json.encode(reply))


def _identifier(exchange: Exchange, fields: Fields, prefix: str) -> str:
    return f"{prefix}-{exchange.header(b'x-request-id') or fields.text('request_id') or os.urandom(8).hex()}"


def _tokens(prompts: Sequence[Prompt]) -> int:
    return sum(len(prompt.tokens) for prompt in prompts)


def _encoded(values: list[float], fields: Fields) -> list[float] | str:
    """Numbers, or for `base64` their 32-bit floats."""
    wanted = fields.text("encoding_format") or "float"
    if wanted == "float":
        return values
    if wanted == "base64":
        return base64.b64encode(np.array(values, dtype="<f4").tobytes()).decode()
    raise RequestError("The simulated engine knows the encoding formats float and base64.", param="encoding_format")
