"""The model's own chat template, rendered as engines render it.

A template is a program that came with a model: it runs in jinja2's immutable sandbox, where it reaches no file, no
module and nobody's attributes. What it may use beside jinja's own is what transformers gives it: `raise_exception`,
`strftime_now`, the `generation` block, loop controls, and a `tojson` that escapes nothing for HTML.
Source: transformers, `utils/chat_template_utils.py`; vLLM, `renderers/hf.py`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_OPEN_MARK = "\u2063END OF THE OPEN MESSAGE\u2063 "
"""Put behind the last message where the answer goes on with it; all from there on is cut off again. Whether its space
is still there tells whether the template strips what it writes."""

Message = dict[str, Any]


class TemplateFailed(Exception):
    """The template refuses the conversation, or is no template; the engine says so better."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; here its body is just rendered."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One template and the names of the model's special tokens, which it may write."""

    def __init__(self, source: str, special_tokens: Mapping[str, Any]) -> None:
        """`special_tokens`: `bos_token` and the like. Raises `TemplateFailed`."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _time_now
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
            self.takes_parts = _takes_parts(environment.parse(source))
            """Whether it goes through a message's content part by part; else content has to be one text."""
        except TemplateError as error:
            raise TemplateFailed(f"the chat template cannot be read: {error}") from error
        self.knows_developer = '"developer"' in source or "'developer'" in source
        """Whether it has a role of that name."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any],
        generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> str:
        """The prompt's text. `options` are further variables; `continue_final` leaves the last message open. Raises
        `TemplateFailed`."""
        conversation = list(messages)
        if continue_final:
            conversation = _marked_open(conversation)
        try:
            text = self._template.render(
                **{
                    **self._special_tokens,
                    "documents": None,
                    **options,
                    "messages": conversation,
                    "tools": tools,
                    "add_generation_prompt": generation_prompt,
                }
            )
        except RecursionError as error:
            raise TemplateFailed("the chat template goes too deep") from error
        except Exception as error:
            # A template is a program of others: it may fail in any way a program can.
            raise TemplateFailed(f"the chat template fails: {error}") from error
        return _cut_open(text) if continue_final else text


def _marked_open(conversation: list[Message]) -> list[Message]:
    last = copy.deepcopy(conversation[-1])
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + _OPEN_MARK
    elif isinstance(content, list):
        texts = [part for part in content if isinstance(part, dict) and "text" in part]
        if not texts:
            raise TemplateFailed("the last message has no text to go on with")
        texts[-1]["text"] += _OPEN_MARK
    else:
        raise TemplateFailed("the last message has no content to go on with")
    return [*conversation[:-1], last]


def _cut_open(text: str) -> str:
    at = text.rfind(_OPEN_MARK.rstrip())
    if at < 0:
        raise TemplateFailed("the chat template leaves out the message to go on with")
    return text[:at] if text.startswith(_OPEN_MARK, at) else text[:at].rstrip()


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _time_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


# -- what a template expects of a message's content


def _takes_parts(template: nodes.Template) -> bool:
    """Whether some loop goes through a message's content, or through what was assigned from it or passed on."""
    names = {"content"}
    while True:
        found = {
            assigned.target.name
            for assigned in template.find_all(nodes.Assign)
            if isinstance(assigned.target, nodes.Name) and _is_content(assigned.node, names)
        } | _parameters(template, names)
        if found <= names:
            break
        names |= found
    return any(_is_content(loop.iter, names) for loop in template.find_all(nodes.For))


def _parameters(template: nodes.Template, names: set[str]) -> set[str]:
    """Names of macros' parameters that content is passed for."""
    macros = {macro.name: macro for macro in template.find_all(nodes.Macro)}
    found = set()
    for call in template.find_all(nodes.Call):
        macro = macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
        if macro is None:
            continue
        found |= {
            parameter.name
            for parameter, argument in zip(macro.args, call.args, strict=False)
            if _is_content(argument, names)
        }
        found |= {keyword.key for keyword in call.kwargs if _is_content(keyword.value, names)}
    return found


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, names)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    return False
