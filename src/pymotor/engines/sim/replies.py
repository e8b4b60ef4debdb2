"""Chat and text completions, field by field as vLLM 0.32 writes them (nulls where it writes nulls)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.errors import error_body
from pymotor.engines.sim.model import mix
from pymotor.engines.sim.prompts import Generation
from pymotor.engines.sim.requests import Output
from pymotor.engines.sim.writers import Choice

_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"


def _event(body: Any) -> bytes:
    return b"data: " + _encode(body) + b"\n\n"


class OpenAIWriter:
    """Chat and text completions. `fingerprint` is the engine's `system_fingerprint`."""

    def __init__(
        self, generation: Generation, identifier: str, model: str, created: int, fingerprint: str, details: bool
    ) -> None:
        self.generation = generation
        self.identifier = identifier
        self._model = model
        self._created = created
        self._fingerprint = fingerprint
        self._details = details
        self._object = "chat.completion" if generation.chat else "text_completion"

    # Streams.

    def greeting(self) -> list[bytes]:
        """Nothing."""
        return []

    def opening(self) -> list[bytes]:
        """A role for each choice of a chat."""
        generation = self.generation
        if not generation.chat:
            return []
        events = []
        prompt = generation.prompts[0]
        for index in range(generation.n):
            choice = {
                "index": index,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
            body = self._chunk([choice])
            if generation.continuous_usage:
                body["usage"] = _usage(len(prompt.tokens), 0)
            body["prompt_token_ids"] = prompt.tokens.tolist() if generation.return_token_ids else None
            body["prompt_text"] = None
            events.append(_event(body))
        return events

    def delta(self, choice: Choice, text: str, output: Output) -> list[bytes]:
        """One event, none for an engine that only encodes."""
        if output.token is None and not choice.tokens:
            return []
        new = [] if output.token is None else [output.token]
        first = len(choice.tokens) == len(new)
        generation = self.generation
        token_ids = new if generation.return_token_ids else None
        body_choice: dict[str, Any]
        if generation.chat:
            body_choice = {
                "index": choice.index,
                "delta": {"content": text},
                "logprobs": self._chat_logprobs(new),
                "finish_reason": choice.finish_reason,
            }
            if choice.finish_reason is not None:
                body_choice["stop_reason"] = choice.stop_reason
        else:
            prompt = generation.prompts[choice.prompt_index]
            if generation.echo and first:
                text = tokenizer.decode(prompt.tokens.tolist()) + text
            body_choice = {
                "index": choice.index,
                "text": text,
                "logprobs": self._completion_logprobs(new, len(choice.text) - len(text)),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
                "prompt_token_ids": prompt.tokens.tolist() if generation.return_token_ids and first else None,
            }
        body_choice["token_ids"] = token_ids
        body = self._chunk([body_choice])
        if generation.continuous_usage:
            body["usage"] = _usage(len(generation.prompts[choice.prompt_index].tokens), len(choice.tokens))
        if choice.finish_reason is not None and not generation.include_usage:
            body["system_fingerprint"] = self._fingerprint
        return [_event(body)]

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        """The usage where it is wanted, and `[DONE]`."""
        if not self.generation.include_usage:
            return [_DONE]
        body = self._chunk([])
        usage = self._total(choices)
        body["usage"] = {name: value for name, value in usage.items() if value is not None}
        body["system_fingerprint"] = self._fingerprint
        return [_event(body), _DONE]

    def failure(self, message: str) -> list[bytes]:
        """An error object as an event, and `[DONE]`."""
        return [b"data: " + error_body(message, "InternalServerError", None, 500) + b"\n\n", _DONE]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.identifier,
            "object": "chat.completion.chunk" if self.generation.chat else self._object,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    # Whole answers.

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that is not streamed. Transfer parameters are those of the first choice."""
        generation = self.generation
        tokens_wanted = generation.return_token_ids
        body: dict[str, Any] = {
            "id": self.identifier,
            "object": self._object,
            "created": self._created,
            "model": self._model,
            "choices": [self._whole_chat(c) if generation.chat else self._whole_completion(c) for c in choices],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": self._total(choices),
        }
        if generation.chat:
            body["prompt_logprobs"] = None
            body["prompt_token_ids"] = generation.prompts[0].tokens.tolist() if tokens_wanted else None
            body["prompt_text"] = None
        body["kv_transfer_params"] = choices[0].kv_transfer_params
        body["ec_transfer_params"] = choices[0].ec_transfer_params
        body["metrics"] = None
        return _encode(body)

    def _whole_chat(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": choice.text,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": self._chat_logprobs(choice.tokens),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": choice.tokens if self.generation.return_token_ids else None,
            "routed_experts": None,
        }

    def _whole_completion(self, choice: Choice) -> dict[str, Any]:
        generation = self.generation
        prompt = generation.prompts[choice.prompt_index]
        prompt_ids = prompt.tokens.tolist() if generation.return_token_ids or generation.echo else None
        echoed = tokenizer.decode(prompt_ids) if generation.echo and prompt_ids else ""
        return {
            "index": choice.index,
            "text": echoed + choice.text,
            "logprobs": self._completion_logprobs(choice.tokens, 0),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": choice.tokens if generation.return_token_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompt_ids if generation.return_token_ids else None,
            "routed_experts": None,
        }

    def _total(self, choices: Sequence[Choice]) -> dict[str, Any]:
        usage = _usage(
            sum(len(prompt.tokens) for prompt in self.generation.prompts), sum(len(c.tokens) for c in choices)
        )
        cached = next((c.cached_tokens for c in choices if c.cached_tokens is not None), None)
        details = None
        if self._details and cached is not None:
            details = {"cached_tokens": cached}
        return {**usage, "prompt_tokens_details": details, "completion_tokens_details": None}

    # Log probabilities: invented, but the same for the same token.

    def _chat_logprobs(self, tokens: Sequence[int]) -> dict[str, Any] | None:
        wanted = self.generation.logprobs
        if wanted is None:
            return None
        content = []
        for token in tokens:
            ranked = [_chat_logprob(*pair) for pair in _ranked(token, max(1, wanted))]
            content.append({**ranked[0], "top_logprobs": ranked[:wanted]})
        return {"content": content}

    def _completion_logprobs(self, tokens: Sequence[int], offset: int) -> dict[str, Any] | None:
        wanted = self.generation.logprobs
        if wanted is None:
            return None
        texts = [tokenizer.token_text(token) for token in tokens]
        ranked = [_ranked(token, max(1, wanted)) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "text_offset": offsets,
            "token_logprobs": [pairs[0][1] for pairs in ranked],
            "tokens": texts,
            "top_logprobs": [{tokenizer.token_text(token): value for token, value in pairs} for pairs in ranked],
        }


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _ranked(token: int, count: int) -> list[tuple[int, float]]:
    """The token and `count - 1` others, with falling log probabilities."""
    first = -(mix(token) % 1000) / 1000
    others = (other for other in range(32, 127) if other != token)
    return [(token, first)] + [(other, first - rank) for rank, other in zip(range(1, count), others, strict=False)]


def _chat_logprob(token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.token_text(token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
