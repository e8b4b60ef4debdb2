"""Where two JSON values differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Path = tuple[str | int, ...]
"""Steps from the top of a JSON value to a place in it."""


def differences(old: Any, new: Any, at: Path = ()) -> list[Path]:
    """Where two JSON values differ, down to the single key. A list whose length changes differs as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [path for key in sorted(old.keys() | new.keys()) for path in _at_key(old, new, key, at)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            path
            for index, (before, after) in enumerate(zip(old, new, strict=True))
            for path in differences(before, after, (*at, index))
        ]
    # True is 1 to Python and not to JSON.
    return [] if old == new and isinstance(old, bool) == isinstance(new, bool) else [at]


def _at_key(old: dict[str, Any], new: dict[str, Any], key: str, at: Path) -> Iterable[Path]:
    path = (*at, key)
    if key in old and key in new:
        return differences(old[key], new[key], path)
    # A section that only one side has counts key by key, since each of its keys may or may not change.
    there = old[key] if key in old else new[key]
    if isinstance(there, dict) and there:
        return differences({} if key in new else there, there if key in new else {}, path)
    return [path]
