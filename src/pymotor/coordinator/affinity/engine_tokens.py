"""Prompts in tokens by an engine's `/tokenize`, where no tokenizer is configured here, or it does not tell a chat's.

Costs a round trip to an engine, which reads the whole prompt a second time. Requests with media are not asked about:
the engine would load and process them. An endpoint that does not offer the path, or is slow, is left alone for a
while; one that could not be reached for a moment only. Another is asked in its stead.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple, TypeVar

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import Fields, RequestView, body_of, sole_prompt
from pymotor.coordinator.api.surface import CHAT, COMPLETIONS
from pymotor.coordinator.http.exchange import DeadlineExceeded, UpstreamError
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.prompts.prompt import Prompt, prompt_of_ids
from pymotor.coordinator.prompts.truncation import UNKNOWN, kept_tokens, truncated
from pymotor.coordinator.scheduling.target import Target

logger = logging.getLogger(__name__)

_PATH = b"/tokenize"
_ASKED_WITH = (
    "model",
    "messages",
    "prompt",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template_kwargs",
)
"""Fields of a request that decide its tokens."""
_NOT_ASKED_WITH = ("chat_template", "documents", "reasoning_effort")
"""Likewise, of a chat; the engine is not asked with them, or does not look at them there."""
_SECONDS = 1.0
"""That a request waits, for all its tries together."""
_TRIES = 2
_LONG_PAUSE, _SHORT_PAUSE = 30.0, 1.0
"""Seconds for which an endpoint is not asked: one that is slow or does not offer the path, and one that failed."""
_ABOUT_THE_REQUEST = frozenset((400, 413, 422))
_PASSES = frozenset((429, 500, 502, 503, 504))
_LOOP_BYTES = 32768
"""More than that of token ids would take the event loop about half a millisecond: they are read in a thread."""
_MOST_SILENT = 1024
"""Endpoints that are remembered as silent; those of which it was learned first are forgotten."""


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_QUOTE = ord('"')

Bytes = TypeVar("Bytes", bytes, msgspec.Raw)
Result = TypeVar("Result")

_decoder = msgspec.json.Decoder(_Tokenized)


class _Silence(NamedTuple):
    until: float
    why: str


class EngineTokens:
    """Asks for one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect_timeout: float) -> None:
        self._loop = loop
        self._connect_timeout = min(_SECONDS, connect_timeout)
        self._silent: dict[str, _Silence] = {}
        """By URL, until the endpoint answers again."""

    async def read(self, view: RequestView, targets: Sequence[Target]) -> Prompt | None:
        """The request's prompt, asked of the least loaded of `targets`, at most two; None where none of them says."""
        fields = view.fields
        kept = kept_tokens(fields)
        if view.prompts or kept == UNKNOWN:
            return None
        found: Prompt | None
        if view.surface is COMPLETIONS:
            found = await self._read(_token_ids, fields["prompt"])
            plain = found is not None or _says(fields, "add_special_tokens", b"false")
        elif view.surface is CHAT and not view.media and not any(_states(fields, name) for name in _NOT_ASKED_WITH):
            found = None
            plain = not _says(fields, "add_special_tokens", b"true")
        else:
            return None
        if found is None:
            found = await self._ask_one_of(view, targets)
        if found is not None:
            found = truncated(found, kept, plain=plain)
        if found is not None:
            view.prompt_tokens = found.length
        return found

    async def _ask_one_of(self, view: RequestView, targets: Sequence[Target]) -> Prompt | None:
        started = monotonic()
        asked = self._to_ask(targets, started)
        if not asked:
            return None
        told = {name: raw for name, raw in view.fields.items() if name in _ASKED_WITH}
        if "prompt" in told:
            # Engines compute a list of one text, but do not tell its tokens.
            told["prompt"] = sole_prompt(view.fields)
        body = b"".join(body_of(told))
        for target in asked:
            reply = await self._ask(target, body, started + _SECONDS)
            if isinstance(reply, _Silence):
                self._falls_silent(target, reply)
                if monotonic() > started + _SECONDS / 2:
                    # The next would have no time to answer, and be taken for slow.
                    return None
                continue
            if self._silent and self._silent.pop(target.url, None) is not None:
                logger.info("%s is asked for tokens again", target.endpoint_id)
            return reply
        return None

    def _to_ask(self, targets: Sequence[Target], now: float) -> list[Target]:
        silent = self._silent
        if silent:
            targets = [one for one in targets if one.url not in silent or silent[one.url].until <= now]
        return heapq.nsmallest(_TRIES, targets, key=lambda target: target.ledger.in_flight(target.row))

    def _falls_silent(self, target: Target, silence: _Silence) -> None:
        former = self._silent.get(target.url)
        self._silent[target.url] = silence
        if len(self._silent) > _MOST_SILENT:
            del self._silent[next(iter(self._silent))]
        if former is None or former.why != silence.why:
            logger.warning(
                "%s does not tell the tokens of prompts (%s): it is asked again now and then",
                target.endpoint_id,
                silence.why,
            )

    async def _ask(self, target: Target, body: bytes, until: float) -> Prompt | _Silence | None:
        """What the endpoint says; None: it cannot be said of this request."""
        receiver = WholeReply(self._loop.create_future())
        began = monotonic()
        connect_by = min(began + self._connect_timeout, until)
        try:
            # A new one: on one that was idle the question might have to be asked again.
            connection = await target.pool.connect(connect_by - began)
            head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
                _PATH,
                target.host_header,
                len(body),
            )
            connection.send((head, body), receiver, first_byte_by=until, idle_seconds=_SECONDS, whole_by=until)
            try:
                await receiver.done
            except (UpstreamError, asyncio.CancelledError):
                connection.abandon(receiver)
                raise
        except UpstreamError as error:
            slow = isinstance(error, DeadlineExceeded) or monotonic() >= connect_by
            return _silence("it is too slow" if slow else "it cannot be reached", slow)
        if receiver.status in _ABOUT_THE_REQUEST:
            return None
        if receiver.status != 200:
            return _silence(f"its /tokenize answers {receiver.status}", receiver.status not in _PASSES)
        return await self._read(_tokenized, receiver.body)

    async def _read(self, work: Callable[[Bytes], Result], raw: Bytes) -> Result:
        if len(memoryview(raw)) <= _LOOP_BYTES:
            return work(raw)
        return await self._loop.run_in_executor(None, work, raw)


def _tokenized(body: bytes) -> Prompt | _Silence | None:
    try:
        return prompt_of_ids(_decoder.decode(body).tokens)
    except UNREADABLE:
        return _silence("its /tokenize answers something else", long=True)


def _silence(why: str, long: bool) -> _Silence:
    return _Silence(monotonic() + (_LONG_PAUSE if long else _SHORT_PAUSE), why)


def _states(fields: Fields, name: str) -> bool:
    return name in fields and not _says(fields, name, b"null")


def _says(fields: Fields, name: str, value: bytes) -> bool:
    return name in fields and memoryview(fields[name]) == value


def _token_ids(raw: msgspec.Raw) -> Prompt | None:
    if memoryview(raw)[0] == _QUOTE:
        return None
    try:
        prompt = msgspec.json.decode(raw)
    except UNREADABLE:
        return None
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list):
        prompt = prompt[0]
    return prompt_of_ids(prompt) if isinstance(prompt, list) else None
