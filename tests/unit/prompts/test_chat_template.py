"""Templates as engines render them, and what they are kept from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pymotor.coordinator.prompts.chat_template import ChatTemplate, TemplateFailed
from pymotor.coordinator.prompts.conversation import NotRendered, conversation_of, tools_of

USER = {"role": "user", "content": "hi <b>"}


def rendered(source: str, *messages: dict[str, Any], **more: Any) -> str:
    """By a template with one special token."""
    return ChatTemplate(source, {"eos_token": "</s>"}).render(
        messages or [USER], options=more.pop("options", {}), **more
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content | tojson }}", '"hi <b>"'),
        ("{{ eos_token }}{{ bos_token }}", "</s>"),
        ("{% for m in messages %}\n  {% if m %}\nx\n  {% endif %}\n{% endfor %}", "x\n"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{% for n in [1, 2, 3] %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "1"),
        ("{{ add_generation_prompt }} {{ tools }} {{ documents }}", "True None None"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
    ],
)
def test_what_templates_may_use(source: str, text: str) -> None:
    assert rendered(source) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only user') }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ undefined.attribute }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_what_templates_may_not(source: str) -> None:
    with pytest.raises(TemplateFailed):
        rendered(source)


def test_what_is_no_template() -> None:
    with pytest.raises(TemplateFailed, match="cannot be read"):
        ChatTemplate("{% if %}", {})


MESSAGES = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
STRIPPED = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"


@pytest.mark.parametrize(("source", "end"), [(MESSAGES, "[once "), (STRIPPED, "[once")])
def test_an_answer_that_goes_on(source: str, end: str) -> None:
    open_one = {"role": "assistant", "content": "once "}
    assert rendered(source, USER, open_one, continue_final=True) == "[hi <b>]" + end
    assert open_one["content"] == "once ", "the message itself stays as it is"
    parts = {"role": "assistant", "content": [{"type": "text", "text": "once "}]}
    by_part = "{% for m in messages %}[{% for p in m.content %}{{ p.text }}{% endfor %}]{% endfor %}"
    assert rendered(by_part, parts, continue_final=True) == "[once "
    with pytest.raises(TemplateFailed):
        rendered("nothing of it", open_one, continue_final=True)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{% for p in m['content'] %}{{ p }}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{% set c = m.content %}{% for p in c %}{{ p }}{% endfor %}{% endfor %}", True),
        (
            "{% macro show(what) %}{% for p in what %}{{ p }}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
            True,
        ),
        ("{% for m in messages %}{% for c in m.tool_calls %}{{ c }}{% endfor %}{% endfor %}", False),
    ],
)
def test_whether_content_is_taken_by_its_parts(source: str, parts: bool) -> None:
    assert ChatTemplate(source, {}).takes_parts is parts


def test_messages_as_engines_bring_them() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    broken = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]
    found = conversation_of(
        [
            {"role": "system", "content": "x-anthropic-billing-header: 7\nbe kind"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}],
                "name": "n",
            },
            {"role": "assistant", "content": None, "tool_calls": calls, "reasoning": "hm"},
            {"role": "assistant", "content": "x", "tool_calls": broken},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}]},
        ],
        parts=False,
        developer=False,
    )
    assert [message["content"] for message in found] == ["be kind", "a\nb", "", "x", "1"]
    assert found[1]["name"] == "n"
    assert found[2]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert found[2]["reasoning_content"] == "hm"
    assert found[3]["tool_calls"][0]["function"]["arguments"] == {}
    assert found[4]["tool_call_id"] == "c"


def test_media_are_their_modality() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    message = {"role": "user", "content": ["x", image, {"input_audio": {}}]}
    (found,) = conversation_of([message], parts=True, developer=False)
    assert found["content"] == [{"type": "text", "text": "x"}, {"type": "image"}, {"type": "audio"}]
    with pytest.raises(NotRendered, match="media"):
        conversation_of([message], parts=False, developer=False)


def test_developers_speak_as_the_system_where_nobody_knows_them() -> None:
    messages = [USER, {"role": "developer", "content": "be"}, {"role": "system", "content": "kind"}]
    assert conversation_of(messages, parts=False, developer=True)[1]["role"] == "developer"
    first, second = conversation_of(messages, parts=False, developer=False)
    assert first == {"role": "system", "content": "be\n\nkind"}
    assert second["role"] == "user"


def test_tools_have_the_keys_that_engines_give_them() -> None:
    tool = {"function": {"strict": True, "parameters": {"b": 1, "a": 2}, "name": "f"}, "type": "function"}
    assert json.dumps(tools_of([tool])) == (
        '[{"type": "function", "function": {"name": "f", "description": null, "parameters": {"b": 1, "a": 2}, '
        '"strict": true}}]'
    )
    assert tools_of(None) is None
