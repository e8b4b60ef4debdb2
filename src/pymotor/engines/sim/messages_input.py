"""Anthropic's Messages requests as chat requests, the way vLLM 0.32 reads them.

A conversation becomes the chat messages that an OpenAI client would have sent for it, so both get the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.fields import Fields, invalid

_ROLES = ("user", "assistant", "system")
_TOOL_CHANGES = ("tool_addition", "tool_removal")
_BLOCKS = (
    *("text", "image", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking"),
    *_TOOL_CHANGES,
)
_MOST_STOPS = 4
_BILLING_MARK = "x-anthropic-billing-header"
"""A system text that begins so counts a client's calls; left out, because it would spoil the prefix cache."""
_SAME_NAME = ("temperature", "top_p", "top_k", "stream", "kv_transfer_params", "ec_transfer_params")

Chat = dict[str, Any]


def chat_request(body: Mapping[str, Any]) -> Chat:
    """The chat request of a body for `/v1/messages`. Raises `RequestError`, of kind `Bad Request` for its form."""
    fields = Fields(body)
    max_tokens = fields.integer("max_tokens")
    if max_tokens is None or max_tokens <= 0:
        raise invalid(
            "max_tokens", "Field required" if max_tokens is None else "Value error, max_tokens must be positive"
        )
    stops = fields.strings("stop_sequences")
    if len(stops) > _MOST_STOPS or isinstance(body.get("stop_sequences"), str):
        raise invalid("stop_sequences", f"Input should be a list of at most {_MOST_STOPS} strings")
    _check_thinking(fields, max_tokens)
    chat = conversation(body)
    chat["max_tokens"] = max_tokens
    chat["stop"] = list(stops)
    chat |= {name: body[name] for name in _SAME_NAME if body.get(name) is not None}
    return chat


def conversation(body: Mapping[str, Any]) -> Chat:
    """Messages and tools of a body for `/v1/messages` or `/v1/messages/count_tokens`. Raises `RequestError`."""
    if not Fields(body).text("model"):
        raise invalid("model", "Value error, Model is required" if "model" in body else "Field required")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise invalid("messages", "Input should be a valid list" if "messages" in body else "Field required")
    chat: list[Chat] = []
    system = "".join(_system_texts(body.get("system"), "system"))
    if system:
        chat.append({"role": "system", "content": system})
    for index, message in enumerate(messages):
        chat.extend(_message(message, f"messages.{index}"))
    request: Chat = {"messages": chat}
    tools = body.get("tools")
    if tools:
        request["tools"] = [_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)]
    return request


def _check_thinking(fields: Fields, max_tokens: int) -> None:
    """A budget must be less than the answer's tokens, except on a prefill leg, which is asked for one token."""
    thinking = Fields(fields.mapping("thinking") or {})
    budget = thinking.integer("budget_tokens") if thinking.body.get("type") == "enabled" else None
    prefill = (fields.mapping("kv_transfer_params") or {}).get("do_remote_decode")
    if budget is not None and not prefill and budget >= max_tokens:
        raise RequestError(
            "1 validation error:\n  Value error, thinking.budget_tokens must be less than max_tokens: body",
            kind="Bad Request",
            param="body",
        )


def _system_texts(content: Any, where: str) -> Iterable[str]:
    if content is None:
        return
    if isinstance(content, str):
        if content:
            yield content
        return
    for block in _blocks(content, where):
        text = block.get("text")
        if block["type"] == "text" and text and not text.startswith(_BILLING_MARK):
            yield text


def _message(message: Any, where: str) -> list[Chat]:
    """The chat messages of one message: results of tools are messages of their own, before the rest."""
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise invalid(f"{where}.role", "Input should be 'user', 'assistant' or 'system'")
    role, content = message["role"], message.get("content")
    if role == "system":
        texts = [text for text in _system_texts(content, f"{where}.content") if not text.startswith(_BILLING_MARK)]
        return [{"role": "system", "content": "".join(texts)}] if texts else []
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    before: list[Chat] = []
    parts: list[Chat] = []
    calls: list[Chat] = []
    for block in _blocks(content, f"{where}.content"):
        kind = block["type"]
        if kind in _TOOL_CHANGES:
            raise invalid(where, f'Value error, {kind} blocks are only allowed in messages with role "system"')
        if kind == "text" and block.get("text"):
            parts.append({"type": "text", "text": block["text"]})
        elif kind == "image" and block.get("source"):
            parts.append(_image(block["source"]))
        elif kind == "tool_use":
            calls.append(_call(block))
        elif kind == "tool_result" and role == "user":
            before.extend(_tool_result(block))
        elif kind == "tool_result":
            parts.append({"type": "text", "text": f"Tool result: {block.get('content') or ''}"})
    own: Chat = {"role": role}
    if parts:
        own["content"] = parts
    if calls:
        own["tool_calls"] = calls
    return before if role == "user" and not parts else [*before, own]


def _blocks(content: Any, where: str) -> list[Chat]:
    if not isinstance(content, list):
        raise invalid(where, "Field required" if content is None else "Input should be a valid string")
    for block in content:
        if not isinstance(block, dict) or block.get("type") not in _BLOCKS:
            raise invalid(where, f"Input should be a block of one of the types {', '.join(_BLOCKS)}")
        if not isinstance(block.get("text") or "", str) or not isinstance(block.get("source") or {}, dict):
            raise invalid(where, "Input should be a valid string or dictionary: text or source")
    blocks: list[Chat] = content
    return blocks


def _image(source: Mapping[str, Any]) -> Chat:
    if source.get("type") == "url":
        url = source.get("url", "")
    else:
        url = f"data:{source.get('media_type', 'image/jpeg')};base64,{source.get('data', '')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _call(block: Mapping[str, Any]) -> Chat:
    function = {"name": block.get("name") or "", "arguments": json.dumps(block.get("input") or {})}
    return {"id": block.get("id"), "type": "function", "function": function}


def _tool_result(block: Mapping[str, Any]) -> list[Chat]:
    """A tool's message, and a user's with the images it brought."""
    content = block.get("content")
    items = [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    text = (
        content if isinstance(content, str) else "\n".join(i.get("text", "") for i in items if i.get("type") == "text")
    )
    messages: list[Chat] = [{"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": text}]
    images = [_image(item.get("source") or {}) for item in items if item.get("type") == "image"]
    return [*messages, {"role": "user", "content": images}] if images else messages


def _tool(tool: Any, where: str) -> Chat:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise invalid(f"{where}.name", "Field required")
    if not isinstance(tool.get("input_schema"), dict):
        raise invalid(f"{where}.input_schema", "Field required")
    function = {"name": tool["name"], "description": tool.get("description"), "parameters": tool["input_schema"]}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
