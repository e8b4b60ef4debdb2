"""Durations for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """In seconds, minutes, or hours and minutes; less than none, as of clocks that differ, is none."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
