"""Prompts in tokens, by the model's own files where configuration names their directory.

Where a prompt's exact tokens can be had they are what it costs, and what the KV Conductor is asked about. Where not (a
path whose prompt the engine builds in its own way, media without a known placeholder), its texts are counted one
by one, with a few tokens for what a template puts around a message. Long prompts are read in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import RequestView, sole_prompt
from pymotor.coordinator.api.surface import CHAT, COMPLETIONS
from pymotor.coordinator.api.without_media import messages_without_media
from pymotor.coordinator.prompts.chat_template import ChatTemplate, TemplateFailed
from pymotor.coordinator.prompts.conversation import NotRendered, conversation_of, tools_of
from pymotor.coordinator.prompts.model_files import no_template_in, read_model_files
from pymotor.coordinator.prompts.prompt import Prompt, prompt_of_ids
from pymotor.coordinator.prompts.text_tokens import TOKEN_BYTES, TextTokens
from pymotor.coordinator.prompts.truncation import kept_tokens, truncated

logger = logging.getLogger(__name__)

_TEXT_FIELDS = ("messages", "prompt", "input", "system", "instructions", "tools")
_MEDIA_KEYS = frozenset((
    "image_url", "input_image", "video_url", "audio_url", "input_audio", "source", "image_embeds", "file_data",
))  # fmt: skip
_NAMES = frozenset(("type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "detail"))
_MARKS_A_MESSAGE = 4
"""Tokens that a chat template puts around a message."""
_LOOP_BYTES = 2048
"""A request longer than that would take the event loop about a millisecond."""

Result = TypeVar("Result")


class PromptTokens:
    """Reads the prompts of one worker."""

    def __init__(
        self,
        texts: TextTokens,
        loop: asyncio.AbstractEventLoop,
        *,
        template: ChatTemplate | None = None,
        template_with_tools: ChatTemplate | None = None,
        placeholders: dict[str, int] | None = None,
        template_options: dict[str, Any] | None = None,
    ) -> None:
        """`template_options` are the variables that engines are started with for every chat."""
        self._texts = texts
        self._loop = loop
        self._template = template
        self._template_with_tools = template_with_tools or template
        self._placeholders = placeholders or {}
        self._options = template_options or {}
        self._lacking: set[str] = set()
        """Modalities whose lack of a placeholder was told."""

    @classmethod
    def load(
        cls,
        directory: str,
        loop: asyncio.AbstractEventLoop,
        *,
        template: str = "",
        template_options: dict[str, Any] | None = None,
    ) -> PromptTokens:
        """Read the model's files; about a second for a large vocabulary. `template` is the one that engines are
        started with in place of the model's. Raises as `TextTokens.load` and `read_model_files` do."""
        files = read_model_files(directory, template)
        if not files.template:
            logger.warning("%s: its tokenizer does not tell the tokens of chats", no_template_in(directory))
        template_alone = _template(files.template, files.special_tokens)
        with_tools = _template(files.template_with_tools, files.special_tokens)
        # With tools the other template would say something else than engines do.
        is_whole = with_tools is not None or not files.template_with_tools
        return cls(
            TextTokens.load(directory),
            loop,
            template=template_alone if is_whole else None,
            template_with_tools=with_tools,
            placeholders=files.placeholders,
            template_options=template_options,
        )

    async def read(self, view: RequestView) -> Prompt | None:
        """The request's prompt, whose length the view then has too; None where only the engine knows it."""
        if view.surface is not COMPLETIONS and (view.surface is not CHAT or self._template is None):
            return None
        prompt = await self._run(view, self._prompt)
        if prompt is not None:
            view.prompt_tokens = max(1, prompt.length + sum([item.tokens - 1 for item in view.media]))
        return prompt

    async def count(self, view: RequestView) -> None:
        """Put the length of the request's prompt into the view; several prompts of token ids keep theirs."""
        if view.surface is COMPLETIONS and not view.prompts and memoryview(sole_prompt(view.fields))[0] != ord('"'):
            # Token ids are counted already.
            return
        if await self.read(view) is None:
            total = await self._run(view, self._counted)
            if total is not None:
                view.prompt_tokens = total + sum([item.tokens for item in view.media])

    async def _run(self, view: RequestView, work: Callable[[RequestView], Result]) -> Result:
        if view.size <= _LOOP_BYTES:
            return work(view)
        return await self._loop.run_in_executor(None, work, view)

    # -- exactly

    def _prompt(self, view: RequestView) -> Prompt | None:
        try:
            return self._completion(view) if view.surface is COMPLETIONS else self._chat(view)
        except (NotRendered, TemplateFailed, *UNREADABLE):
            # The engine says what is wrong with it, or knows better.
            return None

    def _completion(self, view: RequestView) -> Prompt | None:
        if view.prompts:
            return None
        prompt = msgspec.json.decode(view.fields["prompt"])
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        kept = kept_tokens(view.fields)
        if isinstance(prompt, str):
            with_special = _field(view, "add_special_tokens", True) is not False
            found = Prompt(self._texts.encode(prompt, with_special=with_special))
            return truncated(found, kept, plain=not (with_special and self._texts.adds_special))
        ids = prompt_of_ids(prompt)
        return truncated(ids, kept, plain=True) if ids is not None else None

    def _chat(self, view: RequestView) -> Prompt | None:
        fields = view.fields
        if "chat_template" in fields or "documents" in fields:
            return None
        tools = tools_of(_field(view, "tools", None))
        template = self._template_with_tools if tools else self._template
        assert template is not None
        messages = msgspec.json.decode(messages_without_media(view))
        text = template.render(
            conversation_of(messages, parts=template.takes_parts, developer=template.knows_developer),
            tools=tools,
            options=self._options_of(view),
            generation_prompt=_field(view, "add_generation_prompt", True) is not False,
            continue_final=bool(_field(view, "continue_final_message", False)),
        )
        with_special = bool(_field(view, "add_special_tokens", False))
        tokens = self._texts.encode(text, with_special=with_special)
        kept = kept_tokens(fields)
        if not view.media:
            return truncated(Prompt(tokens), kept, plain=not (with_special and self._texts.adds_special))
        places = self._places(view, tokens)
        return truncated(Prompt(tokens, places), kept, plain=False) if places is not None else None

    def _options_of(self, view: RequestView) -> dict[str, Any]:
        stated = _field(view, "chat_template_kwargs", None) or {}
        if not isinstance(stated, dict):
            raise NotRendered("chat_template_kwargs is no object")
        options = {**self._options, **stated}
        effort = _field(view, "reasoning_effort", None)
        if effort is not None:
            options["reasoning_effort"] = effort
            if "enable_thinking" not in stated:
                options["enable_thinking"] = effort != "none"
        return options

    def _places(self, view: RequestView, tokens: bytes) -> tuple[int, ...] | None:
        """Where the items' placeholders are; None when they are not as many as the items."""
        ids = np.frombuffer(tokens, dtype="<u4")
        left: dict[str, Iterator[int]] = {}
        for modality in {item.modality for item in view.media}:
            token = self._placeholders.get(modality)
            if token is None:
                self._tell_lack_of(modality)
                return None
            found = np.flatnonzero(ids == token).tolist()
            if len(found) != sum(item.modality == modality for item in view.media):
                return None
            left[modality] = iter(found)
        return tuple(next(left[item.modality]) for item in view.media)

    def _tell_lack_of(self, modality: str) -> None:
        if modality not in self._lacking:
            self._lacking.add(modality)
            logger.warning(
                "no config.json beside the tokenizer names the placeholder of %s items (%s_token_id):"
                " where they stand in prompts is not known here",
                modality,
                modality,
            )

    # -- about

    def _counted(self, view: RequestView) -> int | None:
        try:
            texts = [text for name in _TEXT_FIELDS if name in view.fields for text in _texts(view.fields[name])]
        except UNREADABLE:
            return None
        if not texts:
            return None
        marks = _MARKS_A_MESSAGE * len(texts) if "prompt" not in view.fields else 0
        return marks + sum([len(self._texts.encode(text)) // TOKEN_BYTES for text in texts])


def _template(source: str, special_tokens: dict[str, Any]) -> ChatTemplate | None:
    """The template; None where there is none, or one that only the engine can read."""
    if not source:
        return None
    try:
        return ChatTemplate(source, special_tokens)
    except TemplateFailed as error:
        logger.warning("%s: the tokenizer here does not tell the tokens of chats", error)
        return None


def _field(view: RequestView, name: str, otherwise: Any) -> Any:
    raw = view.fields.get(name)
    found = msgspec.json.decode(raw) if raw is not None else None
    return otherwise if found is None else found


def _texts(raw: msgspec.Raw) -> Iterator[str]:
    """The texts in a field's value; none for media and token ids."""
    return _walk(msgspec.json.decode(raw))


def _walk(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if value and isinstance(value[0], int):
            return
        for item in value:
            yield from _walk(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _MEDIA_KEYS and key not in _NAMES:
                yield from _walk(item)
