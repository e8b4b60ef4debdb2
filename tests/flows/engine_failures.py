"""Ways in which an engine fails a request before any content, and what SDKs make of what the gateway answers then."""

from __future__ import annotations

from fleet_under_test import Engine

ENGINE_FAILURES = (
    ("error:code=500", "InternalServerError", 502),
    ("error:code=429", "RateLimitError", 429),
    ("error:code=401", "InternalServerError", 502),
    ("error:code=403", "InternalServerError", 502),
    ("killed", "InternalServerError", 502),
    ("reset", "InternalServerError", 502),
    ("hang", "InternalServerError", 504),
)
"""The fault, the exception's name, which Anthropic's and OpenAI's SDK have in common, and the status."""


def break_engine(engine: Engine, fault: str) -> None:
    """Let it fail so until it is restored."""
    if fault == "killed":
        engine.kill()
    else:
        engine.fail(fault)
