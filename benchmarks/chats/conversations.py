"""Chats that go on: many users, each of whom sends the whole conversation again with every turn."""

from __future__ import annotations

import asyncio
import json
import random
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

MODEL = "qwenvl"
_ANSWER_TOKENS = 12


@dataclass
class Turn:
    """One request as its client saw it."""

    user: int
    number: int
    seconds_to_first_token: float
    prompt_tokens: int
    legs: dict[str, str]
    """The instance that did each leg, as `Server-Timing` tells."""


@dataclass
class Chat:
    """One user's conversation so far."""

    user: int
    chance: random.Random
    words: int
    """Of each question."""
    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, user: int, seed: int, system: str, words: int) -> Chat:
        """A conversation that starts with what all users share, `system`, and goes on in its own way."""
        return cls(user, random.Random(f"{seed} {user}"), words, [{"role": "system", "content": system}])

    def ask(self) -> dict[str, Any]:
        """The body of the next turn's request; its question becomes part of the conversation."""
        self.messages.append({"role": "user", "content": text(self.chance, self.words)})
        return {
            "model": MODEL,
            "messages": self.messages,
            "max_tokens": _ANSWER_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def hear(self, answer: str) -> None:
        """The answer becomes part of the conversation, in printable words: a random model says anything."""
        self.messages.append({"role": "assistant", "content": answer})


def text(chance: random.Random, words: int) -> str:
    """So many random words of lower case."""
    return " ".join("".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 8))) for _ in range(words))


async def take_turn(
    client: httpx.AsyncClient, url: str, chat: Chat, number: int, headers: dict[str, str] | None = None
) -> Turn:
    """Send the chat's next turn and read the whole answer. Raises `RuntimeError` for anything but a whole one."""
    body = chat.ask()
    begun = time.monotonic()
    first: float | None = None
    said: list[str] = []
    tokens = 0
    done = False
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
        if reply.status_code != 200:
            raise RuntimeError(f"{reply.status_code}: {(await reply.aread()).decode(errors='replace')[:500]}")
        async for line in reply.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                done = True
                continue
            event = json.loads(data)
            if "error" in event:
                raise RuntimeError(f"an error in the stream: {event['error']}")
            if first is None and event["choices"]:
                first = time.monotonic()
            said += [choice["delta"].get("content") or "" for choice in event["choices"]]
            if event.get("usage"):
                tokens = event["usage"]["prompt_tokens"]
        timing = reply.headers.get("server-timing", "")
    if not done or first is None:
        raise RuntimeError(f"user {chat.user}'s turn {number} has no end")
    chat.hear("".join(said).encode("ascii", "replace").decode())
    return Turn(chat.user, number, first - begun, tokens, dict(_legs(timing)))


def _legs(timing: str) -> Iterator[tuple[str, str]]:
    for entry in timing.split(","):
        name, _, rest = entry.strip().partition(";")
        for part in rest.split(";"):
            if part.strip().startswith("desc="):
                yield name, part.strip()[5:].strip('"')


async def run_chats(url: str, users: int, turns: int, seed: int, pause: float, words: int) -> list[Turn]:
    """All users at once, each turn after the answer to the one before and a pause of `pause` seconds on average."""
    system = text(random.Random(seed), 60)

    async def converse(client: httpx.AsyncClient, user: int) -> list[Turn]:
        chat = Chat.begin(user, seed, system, words)
        taken = []
        for number in range(turns):
            await asyncio.sleep(chat.chance.expovariate(1 / pause))
            taken.append(await take_turn(client, url, chat, number))
        return taken

    limits = httpx.Limits(max_connections=users, max_keepalive_connections=users)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        taken = await asyncio.gather(*(converse(client, user) for user in range(users)))
    return [turn for one in taken for turn in one]
