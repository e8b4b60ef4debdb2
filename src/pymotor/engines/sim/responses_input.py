"""OpenAI's Responses requests as chat requests, the way vLLM 0.32 reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.fields import Fields, invalid

_ROLES = ("user", "assistant", "system", "developer")
_PART_TEXTS = {"input_text": "text", "input_image": "image_url", "input_file": None}
"""Content parts that a message may have, and the key of each that must be a string."""
_SAME_NAME = (
    *("temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output"),
    *("stream", "mm_processor_kwargs", "media_io_kwargs", "kv_transfer_params", "ec_transfer_params"),
)
_UNFINISHED = ("in_progress", "incomplete")

Chat = dict[str, Any]


def chat_request(body: Mapping[str, Any], messages: Sequence[Chat]) -> Chat:
    """The chat request of a body for `/v1/responses` whose conversation is `messages`. Raises `RequestError`."""
    fields = Fields(body)
    chat: Chat = {name: body[name] for name in _SAME_NAME if body.get(name) is not None}
    chat["messages"] = list(messages)
    max_tokens = fields.integer("max_output_tokens")
    if max_tokens is not None:
        chat["max_tokens"] = max_tokens
    items = body.get("input")
    last = items[-1] if isinstance(items, list) and items else {}
    if last.get("type", "message") in ("message", "reasoning") and last.get("status") in _UNFINISHED:
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    tools = [_tool(tool) for tool in body.get("tools") or () if isinstance(tool, dict)]
    if tools:
        chat["tools"] = tools
    return chat


def conversation(body: Mapping[str, Any], history: Sequence[Chat] = ()) -> list[Chat]:
    """The chat messages of a body, after those of an earlier answer but for its instructions.

    Raises `RequestError`.
    """
    messages: list[Chat] = []
    instructions = Fields(body).text("instructions")
    if instructions:
        messages.append({"role": "system", "content": instructions})
    messages.extend(message for message in history if message["role"] != "system")
    given = body.get("input")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
        return messages
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise invalid("input", "Input should be a valid string" if "input" in body else "Field required")
    own: list[Chat] = []
    for item in given:
        _add(own, item)
    return [*messages, *own]


def _add(messages: list[Chat], item: Mapping[str, Any]) -> None:
    """Add an item of the input; what an assistant thought, said and called is one message."""
    message = _message(item)
    before = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if before is None or message["role"] != "assistant":
        messages.append(message)
    elif "tool_calls" in message:
        before.setdefault("tool_calls", []).extend(message["tool_calls"])
    elif "content" in message and "content" in before:
        messages.append(message)
    else:
        before.update(message)


def _message(item: Mapping[str, Any]) -> Chat:
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {
            "role": "assistant",
            "tool_calls": [{"id": item.get("call_id"), "type": "function", "function": function}],
        }
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    if kind == "reasoning":
        return {"role": "assistant"}
    if kind != "message":
        raise RequestError(f"Unsupported input item type: {kind}", param="input")
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES or not isinstance(content, (str, list)):
        raise invalid("input", "Input should be a valid string")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if role == "assistant" and content and all(_is_output(part) for part in content):
        return {"role": role, "content": content[0]["text"]}
    for part in content:
        _check_part(part)
    return {"role": role, "content": content}


def _is_output(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "output_text" and isinstance(part.get("text"), str)


def _check_part(part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _PART_TEXTS:
        raise invalid("input", "Input should be a valid string")
    key = _PART_TEXTS[kind]
    if key is not None and not isinstance(part.get(key), str):
        raise invalid("input", "Input should be a valid string")


def _tool(tool: Mapping[str, Any]) -> Chat:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
