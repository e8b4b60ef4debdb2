"""A line of the check's table."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Verdict(str, enum.Enum):
    """What a finding means. Only `FAILED` makes the check fail."""

    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


class Finding(NamedTuple):
    """What was seen at one step of one device (`device` None: of the node as a whole) and what to do about it."""

    node: str
    device: int | None
    step: str
    verdict: Verdict
    seen: str
    advice: str = ""
