"""Configurations of a test that differ from another in a few places."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def with_changes(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with other values at dotted places; `...` takes a key out."""
    result = copy.deepcopy(dict(base))
    for place, value in changes.items():
        *way, last = place.split(".")
        holder = result
        for step in way:
            holder = holder.setdefault(step, {})
        if value is ...:
            holder.pop(last, None)
        else:
            holder[last] = value
    return result
