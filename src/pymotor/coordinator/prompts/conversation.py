"""A chat as its template gets it: the messages and tools of a request, brought into the form engines bring them into.

Source: vLLM, `renderers/chat_utils.py` and `entrypoints/openai/chat_completion/protocol.py` (0.32).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pymotor.coordinator.api.media import MODALITIES
from pymotor.coordinator.prompts.chat_template import Message

_TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Of a part that is text: where it has it."""
_KNOWN_KEYS = frozenset((
    "type", "text", "refusal", "thinking", "uuid", "name", "image_url", "input_image", "video_url", "audio_url",
    "input_audio", "image_pil", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "closed",
    "detail", "id", "cache_control",
))  # fmt: skip
_BILLING_LINE = "x-anthropic-billing-header"
"""A client's line that differs each time; engines leave it out so that prompts begin alike."""


class NotRendered(Exception):
    """The conversation has something whose tokens only the engine knows."""


def conversation_of(messages: Iterable[Mapping[str, Any]], *, parts: bool, developer: bool) -> list[Message]:
    """The messages for a template that takes content as `parts` or as one text, and that knows the role `developer`
    or not. Media are parts of their modality alone. Raises `NotRendered`."""
    found = [_message(message, parts) for message in messages]
    if not developer and any(message["role"] == "developer" for message in found):
        return _with_system_first([{**one, "role": "system"} if one["role"] == "developer" else one for one in found])
    return found


def tools_of(tools: Any) -> list[dict[str, Any]] | None:
    """The tools with the keys in the order, and the nulls, that an engine's own types give them. Raises
    `NotRendered`."""
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise NotRendered("tools is no list")
    return [_tool(tool) for tool in tools]


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotRendered("a tool is no function with a name")
    deferred = tool.get("defer_loading")
    described = {name: function.get(name) for name in ("name", "description", "parameters")}
    more = {"strict": function.get("strict"), "defer_loading": function.get("defer_loading", deferred)}
    described |= {name: value for name, value in more.items() if value is not None}
    found = {"type": tool.get("type", "function"), "function": described}
    return found if deferred is None else {**found, "defer_loading": deferred}


def _message(message: Mapping[str, Any], parts: bool) -> Message:
    role = message.get("role")
    if not isinstance(role, str):
        raise NotRendered("a message has no role")
    found: Message = {"role": role, "content": _content(role, message.get("content"), parts)}
    if role == "assistant":
        calls = message.get("tool_calls")
        if calls:
            found["tool_calls"] = [_tool_call(call) for call in calls]
        reasoning = message.get("reasoning")
        if reasoning is not None:
            found["reasoning"] = found["reasoning_content"] = reasoning
    elif role == "tool":
        if "tool_call_id" in message:
            found["tool_call_id"] = message["tool_call_id"]
        found["content"] = _joined_if_text(found["content"])
    elif role == "developer":
        found["tools"] = message.get("tools")
    for name in ("name", "task"):
        if isinstance(message.get(name), str):
            found[name] = message[name]
    return found


def _content(role: str, content: Any, parts: bool) -> str | list[dict[str, Any]]:
    if content is None:
        content = []
    elif isinstance(content, str):
        content = [content]
    if role == "system":
        content = [part for part in map(_without_billing_line, content) if part is not None]
    found = [part for part in (_part(part) for part in content) if part is not None]
    if parts:
        return found
    if any(part["type"] != "text" for part in found):
        # What stands for media in a text is written in the engine's code for the model.
        raise NotRendered("media in a template of texts")
    return "\n".join(part["text"] for part in found)


def _part(part: Any) -> dict[str, Any] | None:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise NotRendered("a content part is no object")
    kind = part.get("type")
    if kind in _TEXT_KEYS:
        text = part.get(_TEXT_KEYS[kind])
        if text is None:
            return None
        if not isinstance(text, str):
            raise NotRendered("a text part has no text")
        return {"type": "text", "text": text, **_extra(part)}
    if kind is None:
        kind = next((one for one in MODALITIES if one in part), None)
    if kind in MODALITIES:
        return {"type": MODALITIES[kind], **_extra(part)}
    raise NotRendered(f"a content part of type {kind}")


def _extra(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in _KNOWN_KEYS}


def _without_billing_line(part: Any) -> Any:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not isinstance(text, str) or not text.startswith(_BILLING_LINE):
        return part
    rest = text.partition("\n")[2]
    if not rest:
        return None
    return {**part, "text": rest} if isinstance(part, dict) else rest


def _joined_if_text(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n".join(part["text"] for part in content)


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise NotRendered("a tool call is no function's")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments:
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    if not isinstance(arguments, dict):
        arguments = {}
    return {**call, "function": {**function, "arguments": arguments}}


def _with_system_first(messages: list[Message]) -> list[Message]:
    """One system message, in front, where there are several or one stands elsewhere."""
    system = [message for message in messages if message["role"] == "system"]
    if len(system) == 1 and messages[0] is system[0]:
        return messages
    texts = [_text_of(message["content"]) for message in system]
    first = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [first, *(message for message in messages if message["role"] != "system")]


def _text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)
