"""The words of a command line as `vllm serve` takes them: underscores for hyphens, and objects key by key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_DOTTED = re.compile(r"--(kv[-_]transfer|ec[-_]transfer|kv[-_]events)[-_]config\.([A-Za-z0-9_.]+)(?:=(.*))?", re.DOTALL)


class OptionError(ValueError):
    """A command line that cannot be served; the message says what to change."""


def hyphenated(word: str) -> str:
    """`--max_model_len=8` as `--max-model-len=8`; vllm takes both."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def split_dotted(words: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take `--kv-transfer-config.key value` and the like out of the command line."""
    plain: list[str] = []
    dotted: dict[str, dict[str, Any]] = {"kv-transfer": {}, "ec-transfer": {}, "kv-events": {}}
    position = 0
    while position < len(words):
        match = _DOTTED.fullmatch(words[position])
        position += 1
        if match is None:
            plain.append(words[position - 1])
            continue
        option, path, value = match.groups()
        if value is None:
            if position >= len(words):
                raise OptionError(f"{words[position - 1]} needs a value")
            value = words[position]
            position += 1
        _set(dotted[option.replace("_", "-")], path.split("."), value)
    return plain, dotted


def _set(target: dict[str, Any], path: Sequence[str], value: str) -> None:
    for name in path[:-1]:
        target = target.setdefault(name, {})
    try:
        target[path[-1]] = json.loads(value)
    except json.JSONDecodeError:
        target[path[-1]] = value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says, object by object."""
    both = dict(base)
    for name, value in over.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both
