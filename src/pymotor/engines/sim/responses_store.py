"""Responses that an engine keeps: vLLM does so in memory, without end, and only where the environment says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymotor.engines.sim.errors import RequestError

VARIABLE = "VLLM_ENABLE_RESPONSES_API_STORE"
"""The environment variable that makes vLLM keep responses."""

Chat = dict[str, Any]


@dataclass
class Kept:
    """A response that is kept."""

    messages: list[Chat]
    """The conversation it answers, as chat messages."""
    body: dict[str, Any]
    """The response object as it stands."""
    events: list[bytes] | None = None
    """The events so far of one that runs in the background and is streamed."""
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there are more events."""
    task: asyncio.Task[None] | None = None
    """What computes it in the background."""

    def history(self) -> list[Chat]:
        """The conversation with its answer."""
        said = [part["text"] for item in self.body["output"] for part in item["content"]]
        return [*self.messages, *({"role": "assistant", "content": text} for text in said)]

    def finish(self, body: dict[str, Any]) -> None:
        """The response object with its answer, unless it was cancelled meanwhile."""
        if self.body["status"] != "cancelled":
            self.body = body

    def add(self, event: bytes) -> None:
        """One more event."""
        assert self.events is not None
        self.events.append(event)
        self.grown.set()

    async def replay(self, start: int, last: bytes) -> AsyncIterator[bytes]:
        """The events from number `start`, up to the one that begins with `last`; waits for those to come."""
        assert self.events is not None
        while True:
            self.grown.clear()
            while start < len(self.events):
                event = self.events[start]
                yield event
                if event.startswith(last):
                    return
                start += 1
            await self.grown.wait()


class ResponsesStore:
    """Responses by their ids."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._kept: dict[str, Kept] = {}

    def get(self, identifier: str) -> Kept:
        """A response. Raises `RequestError` when there is none by that id."""
        kept = self._kept.get(identifier)
        if kept is None:
            raise RequestError(
                f"Response with id '{identifier}' not found.",
                status=404,
                kind="invalid_request_error",
                param="response_id",
            )
        return kept

    def keep(self, messages: Sequence[Chat], body: dict[str, Any]) -> Kept:
        """Keep a response."""
        kept = Kept(list(messages), body)
        self._kept[body["id"]] = kept
        return kept

    async def stop(self) -> None:
        """End what runs in the background."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
