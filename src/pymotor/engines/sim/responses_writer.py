"""OpenAI's response objects and their events, field by field as vLLM 0.32 writes them (nulls where it writes nulls)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pymotor.engines.sim.prompts import Generation
from pymotor.engines.sim.requests import Output
from pymotor.engines.sim.writers import Choice

_encode = msgspec.json.Encoder().encode
COMPLETED = "response.completed"


class ResponsesWriter:
    """Writes one answer to `body`, which was checked. `max_tokens`: the most that the answer can have."""

    def __init__(
        self,
        generation: Generation,
        identifier: str,
        model: str,
        created: int,
        body: Mapping[str, Any],
        max_tokens: int,
    ) -> None:
        self.generation = generation
        self.identifier = identifier
        self._model = model
        self._created = created
        self._body = body
        self._max_tokens = max_tokens
        self.on_finished: Callable[[dict[str, Any]], object] | None = None
        """Told the finished response object before the client is."""
        self._item_id = f"msg_{os.urandom(8).hex()}"
        self._events = 0
        self._open = False

    def greeting(self) -> list[bytes]:
        """The response object without an answer, twice: vLLM sends it before the engine has the request."""
        response = self.response("in_progress", [], None)
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def opening(self) -> list[bytes]:
        """Nothing."""
        return []

    def delta(self, _choice: Choice, text: str, _output: Output) -> list[bytes]:
        """A piece of text, and before the first one the item and the part that it belongs to."""
        if not text:
            return []
        events = []
        if not self._open:
            self._open = True
            events = [
                self._event("response.output_item.added", item=self._item([], "in_progress"), output_index=0),
                self._event(
                    "response.content_part.added",
                    content_index=0,
                    item_id=self._item_id,
                    output_index=0,
                    part={**_part(""), "logprobs": []},
                ),
            ]
        delta = self._event(
            "response.output_text.delta",
            content_index=0,
            delta=text,
            item_id=self._item_id,
            logprobs=[],
            output_index=0,
        )
        return [*events, delta]

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        """The ends of part and item, and the whole response object."""
        text = choices[0].text
        events = []
        if self._open:
            place: dict[str, Any] = {"item_id": self._item_id, "output_index": 0}
            done: dict[str, Any] = {"content_index": 0, "item_id": self._item_id, "logprobs": [], "output_index": 0}
            events = [
                self._event("response.output_text.done", **done, late={"text": text}),
                self._event("response.content_part.done", content_index=0, **place, part=_part(text)),
                self._event("response.output_item.done", item=self._item([_part(text)], "completed"), output_index=0),
            ]
        return [*events, self._event(COMPLETED, response=self._finished(choices))]

    def failure(self, _message: str) -> None:
        """vLLM cannot write its own error event here: the connection is cut."""

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that is not streamed."""
        return _encode(self._finished(choices))

    def _finished(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response object with the whole answer. Without text a stream has no item, and a body an empty one."""
        choice = choices[0]
        item = self._item([_part(choice.text)] if choice.text else [], "completed")
        output = [item] if choice.text or not self.generation.stream else []
        status = "incomplete" if choice.finish_reason == "length" else "completed"  # whatever else ended it
        prompt, cached = len(self.generation.prompts[0].tokens), choice.cached_tokens or 0
        usage = _usage(prompt, cached, len(choice.tokens))
        finished = self.response(status, output, usage, choice.kv_transfer_params, choice.ec_transfer_params)
        if self.on_finished is not None:
            self.on_finished(finished)
        return finished

    def response(
        self,
        status: str,
        output: list[dict[str, Any]],
        usage: dict[str, Any] | None,
        kv_params: dict[str, Any] | None = None,
        ec_params: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The response object."""
        body = self._body
        tools = body.get("tools") or []
        greedy = self.generation.sampling.seed is None
        return {
            "id": self.identifier,
            "created_at": self._created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata"),
            "model": self._model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": _given(body, "parallel_tool_calls", True),
            "temperature": float(_given(body, "temperature", 1.0)),
            "tool_choice": _given(body, "tool_choice", "auto") if tools else "none",
            "tools": tools,
            "top_p": 1.0 if greedy else float(_given(body, "top_p", 1.0)),
            "background": _given(body, "background", False),
            "max_output_tokens": self._max_tokens,
            "max_tool_calls": body.get("max_tool_calls"),
            "previous_response_id": body.get("previous_response_id"),
            "prompt": None,
            "reasoning": body.get("reasoning"),
            "service_tier": _given(body, "service_tier", "auto"),
            "status": status,
            "text": body.get("text"),
            "top_logprobs": None,
            "truncation": _given(body, "truncation", "disabled"),
            "usage": usage,
            "user": body.get("user"),
            "presence_penalty": float(_given(body, "presence_penalty", 0.0)),
            "frequency_penalty": float(_given(body, "frequency_penalty", 0.0)),
            "kv_transfer_params": kv_params,
            "ec_transfer_params": ec_params,
            "input_messages": None,
            "output_messages": None,
        }

    def _item(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "content": content,
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }

    def _event(self, name: str, late: Mapping[str, Any] | None = None, **body: Any) -> bytes:
        """An event with its number. `late`: keys that come after the number."""
        numbered = {**body, "sequence_number": self._events, **(late or {}), "type": name}
        self._events += 1
        return b"event: " + name.encode() + b"\ndata: " + _encode(numbered) + b"\n\n"


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def _given(body: Mapping[str, Any], name: str, default: Any) -> Any:
    value = body.get(name)
    return default if value is None else value


def _usage(prompt: int, cached: int, answered: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": answered,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": prompt + answered,
    }
