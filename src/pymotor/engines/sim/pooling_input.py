"""What an engine that pools is asked to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymotor.engines.sim.chat_template import Prompt
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.fields import Fields, invalid, is_integers
from pymotor.engines.sim.prompts import PromptBuilder

_PAIRS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))


class PoolingInput:
    """Builds prompts from the bodies of pooling requests."""

    def __init__(self, prompts: PromptBuilder) -> None:
        self._prompts = prompts

    def prompts(self, fields: Fields) -> list[Prompt]:
        """The prompts of `input` or `messages`. Raises `RequestError`."""
        if "messages" in fields.body:
            return [self._chat(fields.body)]
        given = fields.body.get("input")
        if isinstance(given, str) or is_integers(given):
            given = [given] if given else given
        if not isinstance(given, list):
            raise invalid("input", "Field required" if given is None else "Input should be a valid list")
        if not given:
            raise RequestError("You must pass at least one prompt")
        if all(_is_conversation(item) for item in given):
            return [self._chat({**fields.body, "messages": item}) for item in given]
        if _is_conversation(given):
            return [self._chat({**fields.body, "messages": given})]
        if not all(isinstance(item, str) or is_integers(item) for item in given):
            raise invalid("input", "Input should be a valid string")
        return [self._cut(self._prompts.plain(item), fields) for item in given]

    def pairs(self, fields: Fields) -> tuple[list[Prompt], list[Prompt]]:
        """The two sides of what is to be scored: one against each, or each against its like."""
        for names in _PAIRS:
            if all(name in fields.body for name in names):
                one, other = ([self._side(item, name) for item in _listed(fields.body[name])] for name in names)
                break
        else:
            raise invalid("queries", "Field required")
        if not one or not other:
            raise RequestError("At least one text element must be given")
        if len(one) not in (1, len(other)):
            raise RequestError("Input lengths must be either 1:1, 1:N or N:N")
        return one, other

    def query_and_documents(self, fields: Fields) -> tuple[Prompt, list[tuple[Any, Prompt]]]:
        """What documents are compared with, and the documents as they were given and as prompts."""
        for name in ("query", "documents"):
            if name not in fields.body:
                raise invalid(name, "Field required")
        documents = _listed(fields.body["documents"])
        if not documents:
            raise RequestError("At least one text element must be given")
        return self._side(fields.body["query"], "query"), [(item, self._side(item, "documents")) for item in documents]

    def _side(self, item: Any, name: str) -> Prompt:
        if isinstance(item, str):
            return self._prompts.plain(item)
        if isinstance(item, dict) and isinstance(item.get("content"), list):
            return self._chat({"messages": [{"role": "user", "content": item["content"]}]})
        raise invalid(name, "Input should be a valid string")

    def _chat(self, body: Mapping[str, Any]) -> Prompt:
        fields = Fields(body)
        return self._cut(self._prompts.chat_prompt(fields, generation_prompt=False), fields)

    def _cut(self, prompt: Prompt, fields: Fields) -> Prompt:
        """The prompt as long as `truncate_prompt_tokens` lets it be."""
        most = fields.integer("truncate_prompt_tokens", None, -1)
        if most is not None and 0 <= most < len(prompt.tokens) and not prompt.media:
            left = fields.text("truncation_side") == "left"
            return Prompt(prompt.tokens[-most:] if left and most else prompt.tokens[:most])
        return self._prompts.checked(prompt)


def media_of(item: Any) -> list[Any] | None:
    """The content parts of an item that is more than text."""
    return list(item["content"]) if isinstance(item, dict) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, dict) and "role" in i for i in value)
