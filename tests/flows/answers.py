"""A generating request and its answer, reduced to what must be the same whichever way it went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import plain_http

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SECONDS = 60.0


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    body: dict[str, Any]


@dataclass
class Choice:
    """One answer of possibly several."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None


@dataclass
class Answer:
    """What came back. `error` is the error object of a refusal or of a stream that broke."""

    status: int
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: tuple[int, int, int] | None = None
    error: dict[str, Any] | None = None
    headers: httpx.Headers = field(default_factory=httpx.Headers, compare=False)
    done: bool = field(default=True, compare=False)
    """Whether a stream ended with `[DONE]`."""

    @property
    def comparable(self) -> tuple[object, ...]:
        """Equal for equal answers; of a refusal only the status, since words may differ."""
        if self.status != 200 or self.error is not None:
            return (self.status, self.error is not None)
        return (self.status, self.choices, self.usage)

    @property
    def legs(self) -> list[tuple[str, str]]:
        """Leg and instance names from `Server-Timing`."""
        header = self.headers.get("server-timing", "")
        entries = [entry.strip().split(";") for entry in header.split(",") if entry.strip()]
        return [(entry[0], entry[1].removeprefix('desc="').removesuffix('"')) for entry in entries]


def events_of(text: str) -> list[str]:
    """The data of each event of a whole stream. Raises `ValueError` for anything but `data:` events."""
    events = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if not block:
            continue
        if not block.startswith("data:") or "\n" in block:
            raise ValueError(f"not a data event: {block!r}")
        events.append(block[5:].strip())
    return events


def read_stream(text: str, headers: httpx.Headers) -> Answer:
    """The answer in a stream's events."""
    answer = Answer(200, headers=headers, done=False)
    for event in events_of(text):
        assert not answer.done, "an event after [DONE]"
        if event == "[DONE]":
            answer.done = True
            continue
        fields = json.loads(event)
        if fields.get("error") is not None:
            answer.error = fields["error"]
            continue
        _take(answer, fields["choices"], fields.get("usage"), "delta")
    return answer


def read_whole(reply: httpx.Response) -> Answer:
    """The answer in a reply that is not streamed."""
    fields = reply.json()
    answer = Answer(reply.status_code, headers=reply.headers)
    if reply.status_code != 200:
        answer.error = fields.get("error", fields)
        return answer
    _take(answer, fields["choices"], fields.get("usage"), "message")
    return answer


def _take(answer: Answer, choices: Iterable[dict[str, Any]], usage: dict[str, int] | None, holder: str) -> None:
    for found in choices:
        choice = answer.choices.setdefault(found["index"], Choice())
        choice.token_ids += found.get("token_ids") or []
        said = found["text"] if "text" in found else (found.get(holder) or {}).get("content")
        choice.text += said or ""
        if found.get("finish_reason") is not None:
            assert choice.finish_reason is None, "two finish reasons for one choice"
            choice.finish_reason = found["finish_reason"]
    if usage is not None:
        answer.usage = (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])


async def ask(client: httpx.AsyncClient, url: str, asked: Asked, **headers: str) -> Answer:
    """Send the request and read the answer to its end."""
    reply = await client.post(url + asked.path, json=asked.body, headers=headers)
    if reply.headers["content-type"].startswith("text/event-stream"):
        return read_stream(reply.text, reply.headers)
    return read_whole(reply)


def ask_one(url: str, body: dict[str, Any], path: str = CHAT, **headers: str) -> Answer:
    """The same for one request, outside of a loop."""
    reply = plain_http.post(url + path, json=body, timeout=SECONDS, headers=headers)
    if reply.headers["content-type"].startswith("text/event-stream"):
        return read_stream(reply.text, reply.headers)
    return read_whole(reply)


async def ask_all(url: str, requests: Sequence[Asked], at_once: int) -> list[Answer]:
    """The answers to all, in order, with so many under way at once."""
    turns = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=SECONDS, limits=limits) as client:

        async def one(asked: Asked) -> Answer:
            async with turns:
                return await ask(client, url, asked)

        return await asyncio.gather(*map(one, requests))


def assert_equal_answers(
    requests: Sequence[Asked], answers: Sequence[Answer], plain: Sequence[Answer], way: str
) -> None:
    """Raise `AssertionError` with the first request whose answer is not the plain engine's, and how many there are."""
    different = [
        (asked, found, expected)
        for asked, found, expected in zip(requests, answers, plain, strict=True)
        if found.comparable != expected.comparable or not found.done
    ]
    if not different:
        return
    asked, found, expected = min(different, key=lambda one: len(json.dumps(one[0].body)))
    shown = json.dumps(asked.body)[:2000]
    raise AssertionError(
        f"{len(different)} of {len(requests)} answers through {way} differ from the plain engine's; the shortest:\n"
        f"{asked.path} {shown}\nfound    {found.comparable} {found.error}\nexpected {expected.comparable} "
        f"{expected.error}\nlegs {found.legs}"
    )
