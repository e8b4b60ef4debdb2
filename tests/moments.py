"""Something that happens at a chosen moment of a piece of code, for what must hold whenever it happens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


def interrupted(run: Callable[[], Result], moment: int, happens: Callable[[str], None]) -> Result:
    """What `run` returns or raises when `happens` is called at its `moment`-th step, from 1: before and after each call
    of a function that is not written in Python, of which it gets the name. Most system calls are made in these.

    To be called in a process of its own: what `happens` raises is raised at that step.
    """
    steps = 0

    def step(_frame: FrameType, event: str, function: object) -> None:
        nonlocal steps
        if event.startswith("c_"):
            steps += 1
            if steps == moment:
                happens(getattr(function, "__name__", ""))

    sys.setprofile(step)
    try:
        return run()
    finally:
        sys.setprofile(None)
