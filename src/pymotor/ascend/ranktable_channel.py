"""Messages between the nodes that make one ranktable: a line of JSON each, bounded, each with a proof of the token.

Both sides begin by sending a random challenge. Every message after that carries an HMAC-SHA256 over its direction,
its number and its text, under a key that both challenges and the shared token make; so nothing can be replayed, and
the token itself is never sent. Without a token the proof only guards against accidents.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from typing import Any

PROTOCOL = "pymotor-ranktable-1"
MAX_LINE = 4 << 20
"""A thousand nodes of sixteen devices fit into it."""
MAX_GREETING = 1024


class ChannelError(Exception):
    """The other side is none of ours, has another token, or broke off in the middle of a line."""


class Channel:
    """One connection after both sides have greeted. `collects` is the side of the first node."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, *, collects: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key
        self._sending, self._receiving = (b">", b"<") if collects else (b"<", b">")
        self._sent = self._received = 0

    @classmethod
    async def greet(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: bytes, *, collects: bool
    ) -> Channel:
        """Exchange challenges. Raises `ChannelError`, `OSError`."""
        own = secrets.token_hex(16)
        writer.write(json.dumps({"protocol": PROTOCOL, "challenge": own}).encode() + b"\n")
        await writer.drain()
        theirs = _greeting(await _line(reader, MAX_GREETING))
        challenges = f"{own}:{theirs}" if collects else f"{theirs}:{own}"
        key = hmac.digest(token, challenges.encode(), hashlib.sha256)
        return cls(reader, writer, key, collects=collects)

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message. Raises `OSError` when the other side is gone."""
        text = json.dumps(message)
        proof = self._proof(self._sending, self._sent, text)
        self._sent += 1
        self._writer.write(json.dumps({"message": text, "proof": proof}).encode() + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any]:
        """Wait for one message. Raises `ChannelError`; `OSError` when the other side is gone."""
        try:
            frame = json.loads(await _line(self._reader, MAX_LINE))
            text, proof = frame["message"], frame["proof"]
            expected = self._proof(self._receiving, self._received, text)
            genuine = hmac.compare_digest(proof.encode(), expected.encode())
            message = json.loads(text) if genuine else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ChannelError("the other side sends something else than messages of a ranktable") from error
        if not genuine:
            raise ChannelError(
                "the other side does not know the token: set the same PYMOTOR_RANKTABLE_TOKEN on every node"
            )
        if not isinstance(message, dict):
            raise ChannelError("the other side sends something else than messages of a ranktable")
        self._received += 1
        return message

    def _proof(self, direction: bytes, number: int, text: str) -> str:
        return hmac.new(self._key, b"%s%d:%s" % (direction, number, text.encode()), hashlib.sha256).hexdigest()


def _greeting(line: bytes) -> str:
    try:
        greeting = json.loads(line)
        challenge = greeting["challenge"]
        if greeting["protocol"] == PROTOCOL and isinstance(challenge, str) and len(challenge) == 32:
            return challenge
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ChannelError("another program, or another version of PyMotor, listens or calls there")


async def _line(reader: asyncio.StreamReader, limit: int) -> bytes:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ChannelError("the other side broke off in the middle of a message") from error
        raise ConnectionResetError("the other side closed the connection") from error
    except asyncio.LimitOverrunError as error:
        raise ChannelError("the other side sends more than a ranktable can be") from error
    if len(line) > limit:
        raise ChannelError("the other side sends more than a ranktable can be")
    return line
