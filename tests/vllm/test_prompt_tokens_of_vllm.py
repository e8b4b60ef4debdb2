"""Our tokens of a chat are vLLM's, whatever is in the chat and whatever the template does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines_under_test import vllm_python_or_skip
from pymotor.coordinator.api.surface import CHAT
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.engines.tiny_model import make_tiny_model

pytestmark = pytest.mark.vllm

IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


REQUESTS: list[dict[str, Any]] = [
    {"messages": [user("hello")]},
    {"messages": [user("hé <|im_end|> 你好 😀"), said("yes"), user([text("a"), text("b")])]},
    {"messages": [user([text("see "), IMAGE, text(" and "), IMAGE])]},
    {"messages": [user("x"), said("once ")], "add_generation_prompt": False, "continue_final_message": True},
    {"messages": [user("x")], "add_generation_prompt": False},
    {
        "messages": [
            user("rain?"),
            said(None, tool_calls=[CALL]),
            {"role": "tool", "tool_call_id": "c1", "content": [text("rain"), text("cold")]},
        ],
        "tools": [TOOL],
    },
    {"messages": [{"role": "developer", "content": "short"}, user("x"), {"role": "system", "content": "late"}]},
    {"messages": [{"role": "system", "content": "x-anthropic-billing-header: 1\nbe kind"}, user("x")]},
    {
        "messages": [user("think"), said("ok", reasoning="hmm"), user("again")],
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "high",
    },
    {"messages": [user("hard")], "reasoning_effort": "none"},
]

EVERYTHING = """{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}
{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- macro show(content) %}
  {%- if content is string %}{{ content }}{%- else %}{%- for item in content %}
    {%- if item.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{%- else %}{{ item.text }}{%- endif %}
  {%- endfor %}{%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}{% generation %}{{ show(message.content) | trim }}{% endgeneration %}
    {%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<call>' + call.function.name + (call.function.arguments | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if enable_thinking is defined and not enable_thinking %}<nothink>{% endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' + eos_token }}{%- endif %}"""
TEXTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    directory = tmp_path_factory.mktemp("model")
    make_tiny_model(directory)
    return directory


def test_tokens_are_vllms(model: Path) -> None:
    templates = ["", EVERYTHING, TEXTS]
    asked = json.dumps({"model": str(model), "templates": templates, "requests": REQUESTS})
    script = str(Path(__file__).with_name("rendered_by_vllm.py"))
    done = subprocess.run(
        [vllm_python_or_skip(), script],
        input=asked,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = json.loads(done.stdout.splitlines()[-1])
    found = [asyncio.run(tokens_of(model, template)) for template in templates]
    # Media in a template of texts are written in the engine's code for the model: nobody knows them here.
    expected[2][2] = None
    assert found == expected


async def tokens_of(model: Path, template: str) -> list[list[int] | None]:
    """Ours, for each request."""
    loaded = PromptTokens.load(str(model), asyncio.get_running_loop(), template=template)
    prompts = [
        await loaded.read(CHAT.read(CHAT, json.dumps({"model": "m", **body}).encode(), False)) for body in REQUESTS
    ]
    return [None if prompt is None else np.frombuffer(prompt.tokens, dtype="<u4").tolist() for prompt in prompts]
