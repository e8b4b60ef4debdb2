"""One HTTP request and its response."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, cast

import msgspec

from pymotor.engines.sim.answers import ClientGone
from pymotor.engines.sim.errors import RequestError
from pymotor.engines.sim.transport import Connection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = b"application/json"


class Exchange:
    """A request of an ASGI server, and the means to answer it."""

    def __init__(self, scope: Any, receive: Receive, send: Send, *, echo_request_id: bool = False) -> None:
        self._scope = scope
        self._echo_request_id = echo_request_id
        self._receive = receive
        self._send = send
        self.started = False
        """Whether response headers have gone out."""

    @property
    def method(self) -> str:
        """`GET` and the like."""
        return str(self._scope["method"])

    @property
    def path(self) -> str:
        """The path without its query."""
        return str(self._scope["path"])

    @property
    def query(self) -> str:
        """What stands after the question mark."""
        return str(self._scope.get("query_string", b""), "latin-1")

    @property
    def connection(self) -> Connection:
        """The client's connection."""
        return cast(Connection, self._scope["state"]["connection"])

    def header(self, name: bytes) -> str | None:
        """A request header by its name in small letters."""
        for key, value in self._scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    async def body(self) -> bytes:
        """The whole request body. Raises `ClientGone`."""
        chunks = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        self.connection.watch()
        return b"".join(chunks)

    async def json(self) -> dict[str, Any]:
        """The request body as a JSON object. Raises `RequestError` where vLLM refuses it."""
        body = await self.body()
        if (self.header(b"content-type") or "").split(";")[0].strip().lower() != "application/json":
            raise _invalid("Unsupported Media Type: Only 'application/json' is allowed")
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _invalid(f"JSON decode error: {error}", _broken_at(body)) from error
        if not isinstance(value, dict):
            raise _invalid("Input should be a valid dictionary")
        return value

    async def respond(
        self,
        body: bytes,
        status: int = 200,
        content_type: bytes | None = _JSON,
        more_headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """A whole response."""
        headers = [(b"content-length", str(len(body)).encode()), *more_headers, *self._request_id()]
        if content_type is not None:
            headers.append((b"content-type", content_type))
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, content_type: bytes, length: int | None = None) -> None:
        """The headers of a response that comes in parts."""
        self.started = True
        headers = [(b"content-type", content_type), *self._request_id()]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def part(self, data: bytes) -> None:
        """A part of the body, on its way at once."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a response that came in parts."""
        await self._send({"type": "http.response.body", "body": b""})

    def _request_id(self) -> list[tuple[bytes, bytes]]:
        """The header that `--enable-request-id-headers` adds."""
        if not self._echo_request_id:
            return []
        return [(b"x-request-id", (self.header(b"x-request-id") or os.urandom(16).hex()).encode("latin-1"))]


def _invalid(problem: str, param: str = "body") -> RequestError:
    return RequestError(f"1 validation error:\n  {problem}", kind="Bad Request", param=param)


def _broken_at(body: bytes) -> str:
    """Where vLLM says that a body is no JSON: the character, or the body when there is none."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return f"body.{error.pos}" if body else "body"
    except (UnicodeDecodeError, RecursionError):
        pass
    return "body"
