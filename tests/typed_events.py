"""Streams whose events have names, as engines and the gateway frame them."""

from __future__ import annotations

import json
from typing import Any

import httpx


def typed_events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event of a whole stream, which is of the type that its `event:` line says; no `[DONE]`."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    events: list[dict[str, Any]] = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events
