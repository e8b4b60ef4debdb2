"""What a model's directory says of its prompts: tokenizer, chat template, special tokens, placeholders of media.

Only JSON and the template are read; no code of the model's is ever run.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec

from pymotor.control_plane.path_checks import is_file
from pymotor.coordinator.prompts.text_tokens import FILE_NAME, TextTokens, TokenizerError

UNUSABLE = (TokenizerError, OSError, ValueError, RecursionError)
"""What files that are there and cannot be used raise."""
_MODALITIES = ("image", "video", "audio")


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a directory that prompts are made by."""

    template: str = ""
    """Empty where the model has none."""
    template_with_tools: str = ""
    """Where another one is to be used for requests with tools; else empty."""
    special_tokens: dict[str, Any] = {}
    """`bos_token` and the like, as text."""
    placeholders: dict[str, int] = {}
    """By modality: the token that stands for one item before the engine expands it."""


def has_library() -> bool:
    """Whether tokenizers can be read at all."""
    return importlib.util.find_spec("tokenizers") is not None


def why_not(directory: str) -> str | None:
    """Why prompts cannot be counted with the tokenizer in `directory`; None when they can."""
    if not has_library():
        return "the tokenizers library is not installed; pip install tokenizers"
    if not is_file(Path(directory) / FILE_NAME):
        return f"there is no {FILE_NAME} in {directory}"
    return None


def why_not_loaded(directory: str) -> str | None:
    """Why the files in `directory`, where `why_not` finds a tokenizer, cannot be used; None when they can. It loads
    them, about a second for a large vocabulary."""
    try:
        read_model_files(directory)
        TextTokens.load(directory)
    except UNUSABLE as error:
        return in_words(error, directory)
    return None


def no_template_in(directory: str) -> str:
    """That there is none, in words."""
    return f"there is no chat template in {directory} (chat_template.jinja, or chat_template in tokenizer_config.json)"


def why_templates_fail(files: ModelFiles) -> str | None:
    """Why one of the templates cannot be read; None where all can, or there is none."""
    # It brings jinja2 along, which others who look at these files do not need.
    from pymotor.coordinator.prompts.chat_template import ChatTemplate, TemplateFailed

    try:
        for source in (files.template, files.template_with_tools):
            ChatTemplate(source, files.special_tokens)
    except TemplateFailed as error:
        return str(error)
    return None


def in_words(error: Exception, directory: str) -> str:
    """What one of `UNUSABLE` says of the files in `directory`."""
    if isinstance(error, TokenizerError):
        return str(error)
    return f"the files of the model in {directory} cannot be read: {error}"


def read_model_files(directory: str, template: str = "") -> ModelFiles:
    """Read them; `template` is the one that engines are started with in place of the model's. Raises
    `OSError`, and `ValueError` for what is no JSON."""
    home = Path(directory)
    tokenizer = _read(home / "tokenizer_config.json")
    named = _templates(tokenizer.get("chat_template"))
    alone = home / "chat_template.jinja"
    if template:
        named = {"default": template}
    elif alone.is_file():
        named = {"default": alone.read_text(encoding="utf-8")}
    elif "default" not in named:
        processors = _read(home / "chat_template.json").get("chat_template")
        if isinstance(processors, str):
            named = {**named, "default": processors}
    return ModelFiles(
        template=named.get("default", ""),
        template_with_tools=named.get("tool_use", ""),
        special_tokens=_special_tokens(tokenizer, _read(home / "special_tokens_map.json")),
        placeholders=_placeholders(_read(home / "config.json")),
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = json.loads(path.read_bytes())
    return found if isinstance(found, dict) else {}


def _templates(stated: Any) -> dict[str, str]:
    """By name; one without a name is the default."""
    if isinstance(stated, str):
        return {"default": stated}
    if isinstance(stated, list):
        named = [(one.get("name", "default"), one.get("template")) for one in stated if isinstance(one, dict)]
        return {name: text for name, text in named if isinstance(name, str) and isinstance(text, str)}
    return {}


def _special_tokens(*sources: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):
                found.setdefault(name, text)
    return found


def _placeholders(config: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for modality in _MODALITIES:
        for name in (f"{modality}_token_id", f"{modality}_token_index"):
            if isinstance(config.get(name), int):
                found.setdefault(modality, config[name])
    return found
