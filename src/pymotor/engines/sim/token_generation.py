"""`/inference/v1/generate`: token ids in, token ids out, as vLLM 0.32 serves it with `--enable-scale-out`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from pymotor.engines.sim.answering import Answering
from pymotor.engines.sim.errors import RequestError, error_body
from pymotor.engines.sim.exchange import Exchange
from pymotor.engines.sim.fields import Fields, invalid, is_integers
from pymotor.engines.sim.handoffs import BOOTSTRAP_FIELDS
from pymotor.engines.sim.prompts import Generation, PromptBuilder
from pymotor.engines.sim.requests import Output
from pymotor.engines.sim.writers import Choice

_DONE = b"data: [DONE]\n\n"
_OF_REQUEST = ("stream", "stream_options", "kv_transfer_params", "ec_transfer_params", "return_token_ids", "request_id")
_DISABLED = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."


class TokenGeneration:
    """The route of engines that take tokens. Media is not simulated here: `features` and `content_parts` are 400."""

    def __init__(self, answering: Answering, prompts: PromptBuilder, max_model_len: int, *, enabled: bool) -> None:
        self._answering = answering
        self._prompts = prompts
        self._max_model_len = max_model_len
        self._enabled = enabled

    async def generate(self, exchange: Exchange) -> None:
        """`/inference/v1/generate`."""
        if not self._enabled:
            raise RequestError(_DISABLED, status=403, kind="PermissionDeniedError")
        body, struck = await self._answering.take(exchange)
        self._answering.check_rank(exchange)
        generation = self._read(body)
        base = exchange.header(b"x-request-id") or generation.request_id or os.urandom(16).hex()
        identifier = f"generate-tokens-{base}"
        text = Fields(body).text("output_mode") == "text"
        writer = TokenWriter(
            generation, identifier, self._answering.served.answers_as(generation.scope.adapter), text=text
        )
        await self._answering.answer(exchange, identifier, writer, struck)

    def _read(self, body: Mapping[str, Any]) -> Generation:
        tokens = body.get("token_ids")
        if not is_integers(tokens) or not tokens:
            raise invalid("token_ids", "Input should be a valid list" if "token_ids" in body else "Field required")
        for name in ("features", "content_parts"):
            if body.get(name):
                raise RequestError(f"{name}: media is not simulated at this endpoint", param=name)
        fields = Fields(body)
        sampling = fields.mapping("sampling_params")
        if sampling is None:
            raise invalid("sampling_params", "Field required")
        request = {name: body[name] for name in (*_OF_REQUEST, *BOOTSTRAP_FIELDS) if name in body}
        room = max(1, self._max_model_len - len(tokens))
        as_completion = {"max_tokens": room, **sampling, **request, "prompt": tokens}
        # one prompt, so that its id in the engine has no number, as a chat's has none
        return replace(self._prompts.completion(as_completion), chat=True)


class TokenWriter:
    """Writes token ids; with `text` their text as well."""

    def __init__(self, generation: Generation, identifier: str, model: str, *, text: bool) -> None:
        self.generation = generation
        self._identifier = identifier
        self._model = model
        self._mode = "text" if text else "tokens"
        self._told_prompt = False

    def greeting(self) -> list[bytes]:
        """Nothing."""
        return []

    def opening(self) -> list[bytes]:
        """Nothing."""
        return []

    def delta(self, choice: Choice, text: str, output: Output) -> list[bytes]:
        """One event for a token or an end."""
        if output.token is None and output.finish_reason is None:
            return []
        entry = self._choice(choice, [] if output.token is None else [output.token], text)
        body: dict[str, Any] = {
            "request_id": self._identifier,
            "usage": None,
            "output_mode": self._mode,
            "choices": [entry],
        }
        if self.generation.return_token_ids and not self._told_prompt:
            self._told_prompt = True
            body["prompt_token_ids"] = self.generation.prompts[0].tokens.tolist()
        if self.generation.continuous_usage:
            body["usage"] = self._usage([choice])
        return [_event(body)]

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        """The usage where it is wanted, and `[DONE]`."""
        if not self.generation.include_usage:
            return [_DONE]
        usage = self._usage(choices)
        body = {"request_id": self._identifier, "usage": usage, "output_mode": self._mode, "choices": []}
        return [_event(body), _DONE]

    def failure(self, message: str) -> list[bytes]:
        """An error object as an event, and `[DONE]`."""
        return [b"data: " + error_body(message, "InternalServerError", None, 500) + b"\n\n", _DONE]

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that is not streamed."""
        tokens = self.generation.prompts[0].tokens.tolist() if self.generation.return_token_ids else None
        body = {
            "request_id": self._identifier,
            "model": self._model,
            "created": int(time.time()),
            "usage": self._usage(choices),
            "prompt_logprobs": None,
            "prompt_token_id_logprobs": None,
            "prompt_token_ids": tokens,
            "mm_placeholders": None,
            "metrics": None,
            "kv_transfer_params": choices[0].kv_transfer_params,
            "ec_transfer_params": choices[0].ec_transfer_params,
            "output_mode": self._mode,
            "choices": [self._choice(choice, choice.tokens, choice.text) for choice in choices],
        }
        return msgspec.json.encode(body)

    def _choice(self, choice: Choice, tokens: list[int], text: str) -> dict[str, Any]:
        entry = {
            "index": choice.index,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": tokens,
            "routed_experts": None,
            "sampling_mask": None,
            "weight_versions": None,
        }
        return {**entry, **({"text": text} if self._mode == "text" else {}), "logprobs": None}

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        prompt = len(self.generation.prompts[0].tokens)
        completion = sum(len(choice.tokens) for choice in choices)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
