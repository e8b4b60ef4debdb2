"""The conductor's HTTP API: for people, for Prometheus, and for what speaks to the conductor of older versions.

`/register`, `/unregister` and `/query` take and answer what Mooncake's conductor does, with more where that says less.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.token import LOCAL_TOKEN_FILE, TOKEN_PLACE
from pymotor.control_plane.token_gate import TokenGate
from pymotor.fleet.prefix_queries import MOST_TOKENS, Name, PrefixQuery, bounded
from pymotor.kv_conductor.following import Following
from pymotor.kv_conductor.instruments import Figures
from pymotor.kv_conductor.registered import (
    MalformedRegistrationError,
    NotRegisteredError,
    Registration,
    RegistrationError,
    Unregistration,
)
from pymotor.telemetry.metrics import render

LONGEST_BODY = 16 * 1024 * 1024
"""Bytes; of `MOST_TOKENS` tokens each has at most 10 digits, a comma and a space."""
_PIECE = 1 << 18
"""Bytes of a list of tokens that are read at once: a few milliseconds."""
_PLACE = re.compile(r" - at `\$\[(\d+)\]`$")
"""Of a number in a list, at the end of what msgspec says of it."""
_OPEN_PATHS = ("/health", "/readiness", "/liveness", "/startup", "/metrics")
_TENANT = "default"

Message = TypeVar("Message")
_TokenIds: TypeAlias = list[Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]]
Answer = Callable[[Request], Awaitable[Response]]


class PromptQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /query`."""

    model: Name
    token_ids: msgspec.Raw
    """A list of numbers, read by `tokens` once it is known to be none too long."""
    block_size: int | None = None
    """Not needed: events tell how long blocks are."""
    lora_name: Name | None = None
    cache_salt: str | None = None

    async def tokens(self) -> array[int]:
        """The prompt's token ids, 4 bytes each; others are answered in between. Raises `_RefusedError`."""
        text = bytes(self.token_ids)
        if text.count(b",") >= MOST_TOKENS:
            raise _RefusedError(413, f"of a prompt the first {MOST_TOKENS} tokens are compared: `token_ids` has more")
        if len(text) <= _PIECE or not text.startswith(b"["):
            return array("I", _numbers(text))
        tokens, begins, closes = array("I"), 1, len(text) - 1
        while begins < closes:
            comma = text.find(b",", begins + _PIECE)
            ends = comma if comma >= 0 else closes
            tokens.extend(_numbers(b"[%b]" % text[begins:ends], len(tokens)))
            begins = ends + 1
            await asyncio.sleep(0)
        return tokens


class _RefusedError(Exception):
    """Answered with this status; the message says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def conductor_app(following: Following, figures: Figures, token: ClusterToken | None) -> FastAPI:
    """Everything that the conductor answers over HTTP."""
    app = FastAPI(title="PyMotor KV Conductor", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TokenGate, token=token, open_paths=_OPEN_PATHS, refusal=_no_token)
    for path in ("/health", "/liveness", "/startup"):
        app.add_route(path, _alive, methods=["GET"])
    app.add_route("/readiness", _readiness(following), methods=["GET"])
    app.add_route("/metrics", _metrics(following, figures), methods=["GET"])
    app.add_route("/sources", _sources(following, figures), methods=["GET"])
    app.add_route("/query", _query(following, figures), methods=["POST"])
    app.add_route("/register", _register(following), methods=["POST"])
    app.add_route("/unregister", _unregister(following), methods=["POST"])
    app.add_exception_handler(_RefusedError, _refused)
    return app


async def _alive(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _readiness(following: Following) -> Answer:
    async def readiness(_: Request) -> Response:
        # Ready as soon as it answers: what it does not know it says nothing of, and Coordinators go on without it.
        return JSONResponse({"ready": True, "sources": following.by_standing()})

    return readiness


def _metrics(following: Following, figures: Figures) -> Answer:
    async def metrics(_: Request) -> Response:
        following.measure()
        return PlainTextResponse(render(figures.registry.dump()), media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


def _sources(following: Following, figures: Figures) -> Answer:
    async def sources(_: Request) -> Response:
        return JSONResponse(
            {
                "revision": following.answers.followed.revision,
                "coordinator_connections": int(figures.connections.value),
                "endpoints": following.described(),
            }
        )

    return sources


def _query(following: Following, figures: Figures) -> Answer:
    async def query(request: Request) -> Response:
        question = await _body(request, PromptQuestion)
        tokens = await question.tokens()
        asked = PrefixQuery(
            number=0,
            model=question.model,
            tokens=memoryview(tokens).cast("B"),
            adapter=question.lora_name or "",
            salt=bounded(question.cache_salt or ""),
        )
        began = perf_counter()
        answer = JSONResponse({_TENANT: following.matched(asked), "tokens": len(tokens)})
        figures.queries.add()
        figures.query_seconds.observe(perf_counter() - began)
        return answer

    return query


def _register(following: Following) -> Answer:
    async def register(request: Request) -> Response:
        try:
            following.register(await _body(request, Registration))
        except MalformedRegistrationError as error:
            raise _RefusedError(400, str(error)) from error
        except RegistrationError as error:
            raise _RefusedError(409, str(error)) from error
        return JSONResponse({"status": "ok"})

    return register


def _unregister(following: Following) -> Answer:
    async def unregister(request: Request) -> Response:
        try:
            following.unregister(await _body(request, Unregistration))
        except NotRegisteredError as error:
            raise _RefusedError(404, str(error)) from error
        return JSONResponse({"status": "ok"})

    return unregister


async def _body(request: Request, kind: type[Message]) -> Message:
    """Raises `_RefusedError`."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_BODY:
                raise _RefusedError(413, f"a body has at most {LONGEST_BODY} bytes")
    except ClientDisconnect as error:
        # Nobody reads the answer.
        raise _RefusedError(400, "the client left before it had sent all of its request") from error
    return _decoded(body, kind)


def _numbers(text: bytes, before: int = 0) -> list[int]:
    """Those of `token_ids`, of which `before` stand before this text. Raises `_RefusedError`, which says where."""
    try:
        return msgspec.json.decode(text, type=_TokenIds)
    except msgspec.ValidationError as error:
        why = str(error)
        place = _PLACE.search(why)
        item = f"[{before + int(place[1])}]" if place is not None else ""
        what = why[: place.start()] if place is not None else why
        raise _RefusedError(400, f"{what} - at `$.token_ids{item}`") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The list itself can be read: it was cut within an item that has a comma, which no number has.
        raise _RefusedError(400, "Expected numbers only - at `$.token_ids`") from error


def _decoded(content: bytes | bytearray | msgspec.Raw, kind: type[Message]) -> Message:
    """Raises `_RefusedError`."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _RefusedError(400, str(error)) from error


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, _RefusedError)
    return JSONResponse({"error": str(error)}, error.status)


def _no_token() -> Response:
    told = (
        f"this needs the cluster token, 'Authorization: Bearer TOKEN': {TOKEN_PLACE}; of a fleet of `pymotor up` "
        f"{LOCAL_TOKEN_FILE}"
    )
    return JSONResponse({"error": told}, 401, headers={"WWW-Authenticate": "Bearer"})
