"""The keys of a configuration file as Markdown tables, one for each kind of section."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from pymotor.config.problems import json_path
from pymotor.config.schema import Schema, describe, json_schema, resolved
from pymotor.config.section import INSTEAD, NO_EFFECT

_ENGINE_SECTION = re.compile(r"motor_engine_(encode|prefill|decode|union)_config")


def markdown(model: type[BaseModel]) -> str:
    """Every key with what is allowed, its default and its meaning; sections of one kind share a table."""
    root = json_schema(model)
    kinds: dict[str, tuple[Schema, list[str]]] = {}
    for location, section in _sections(root, root, ()):
        path = _ENGINE_SECTION.sub("motor_engine_*_config", json_path(location))
        paths = kinds.setdefault(section["title"], (section, []))[1]
        if path not in paths:
            paths.append(path)
    return "\n".join(line for section, paths in kinds.values() for line in _table(root, section, paths))


def _sections(root: Schema, schema: Schema, location: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Each object with named keys, from the outside in."""
    yield location, schema
    for key, inner in schema.get("properties", {}).items():
        section = resolved(root, inner)
        if "properties" in section:
            yield from _sections(root, section, (*location, key))


def _table(root: Schema, section: Schema, paths: list[str]) -> Iterator[str]:
    yield "### " + ", ".join(f"`{path}`" for path in paths)
    yield ""
    yield section["description"].replace("\n", " ")
    yield ""
    yield "| Key | Allowed | Default | Meaning |"
    yield "|---|---|---|---|"
    for key, inner in section["properties"].items():
        allowed = describe(resolved(root, inner)) if NO_EFFECT not in inner else "anything"
        yield f"| `{key}` | {_cell(allowed or 'anything')} | {_default(inner)} | {_cell(_meaning(root, inner))} |"
    if section.get("additionalProperties") is True:
        yield "| any other | anything |  | Passed on as it is. |"
    yield ""


def _meaning(root: Schema, inner: Mapping[str, Any]) -> str:
    if NO_EFFECT in inner:
        instead = f" Write `{inner[INSTEAD]}`." if INSTEAD in inner else ""
        return f"**No effect**: {inner[NO_EFFECT]}.{instead}"
    meaning: str = inner.get("description") or resolved(root, inner)["description"]
    return f"*Deprecated.* {meaning}" if inner.get("deprecated") else meaning


def _default(inner: Mapping[str, Any]) -> str:
    if inner.get("default") is None:
        return ""
    return f"`{json.dumps(inner['default'], ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
