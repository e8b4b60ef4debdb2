"""What an engine instance is for."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """A stage of a request, or `union` for prefill and decode in one engine."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    UNION = "union"
