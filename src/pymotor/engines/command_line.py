"""Engine options as they stand in `engine_config` → words of an engine's command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.config.engine import option_name


@dataclass(frozen=True, kw_only=True)
class CommandLineStyle:
    """How one engine's command line wants its options written."""

    switches: frozenset[str]
    """Options that have a `--no-…` form."""
    flags: frozenset[str]
    """Options that are only ever given or left out, and left out by default."""
    json_lists: frozenset[str]
    """Options whose list is one JSON text instead of several words."""
    repeated: frozenset[str] = frozenset()
    """Options that are written once for each item of a list."""


@dataclass(frozen=True)
class CommandLine:
    """The words, and what could not be said with them."""

    words: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def option_words(options: Mapping[str, Any], style: CommandLineStyle) -> CommandLine:
    """The options as words, in their order.

    Keys may have hyphens or underscores. `true` is `--key`, `false` is `--no-key` where the engine has that,
    objects are JSON, lists several words, null is not given. A `no-key: true` stays what it is.
    """
    words: list[str] = []
    warnings: list[str] = []
    for key, value in options.items():
        name = option_name(key)
        option = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            words += _boolean_words(name, value, style, warnings)
        elif isinstance(value, Mapping):
            words += [option, compact_json(value)]
        elif isinstance(value, list | tuple):
            words += _list_words(name, option, value, style)
            if not value and name not in style.json_lists:
                warnings.append(f"{name} was not passed on: an empty list cannot be written on a command line")
        else:
            words += _single(option, str(value))
    return CommandLine(tuple(words), tuple(warnings))


def compact_json(value: object) -> str:
    """JSON without blanks, keys in the order they were written."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _boolean_words(name: str, value: bool, style: CommandLineStyle, warnings: list[str]) -> list[str]:
    if value:
        return ["--" + name.replace("_", "-")]
    negated = name.startswith("no_") and name.removeprefix("no_") in style.switches
    if negated:
        return ["--" + name.removeprefix("no_").replace("_", "-")]
    if name in style.switches:
        return ["--no-" + name.replace("_", "-")]
    if name not in style.flags:
        warnings.append(f"{name}: false was not passed on: the engine has no --no-{name.replace('_', '-')}")
    return []


def _list_words(name: str, option: str, values: list[Any] | tuple[Any, ...], style: CommandLineStyle) -> list[str]:
    if name in style.json_lists:
        return [option, compact_json(values)]
    texts = [value if isinstance(value, str) else compact_json(value) for value in values]
    if name in style.repeated:
        return [word for text in texts for word in _single(option, text)]
    return [option, *texts] if texts else []


def _single(option: str, text: str) -> list[str]:
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
