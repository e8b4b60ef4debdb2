"""The ASGI application: vLLM's routes over one engine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.answers import Answer, ClientGone
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.errors import RequestError, error_body
from pymotor.engines.sim.fields import Fields
from pymotor.engines.sim.prompts import Generation, PromptBuilder
from pymotor.engines.sim.replies import DONE, Writer
from pymotor.engines.sim.requests import EngineDeadError
from pymotor.engines.sim.transport import Connection

log = logging.getLogger("pymotor.sim")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = [(b"content-type", b"application/json")]
_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the engine says of itself."""

    model: str
    """As on the command line."""
    names: tuple[str, ...]
    """Names clients may ask for; the first is what answers say."""
    version: str
    max_model_len: int
    fingerprint: str
    prompt_tokens_details: bool
    created: int


class Application:
    """Routes requests to one engine."""

    def __init__(self, served: Served, driver: EngineDriver, prompts: PromptBuilder) -> None:
        self._served = served
        self._driver = driver
        self._prompts = prompts
        self._active = 0
        self._routes: dict[tuple[str, str], Callable[[Any, Any, Any], Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/load"): self._load,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request."""
        handler = self._routes.get((scope["method"], scope["path"]))
        try:
            if handler is None:
                known = any(path == scope["path"] for _, path in self._routes)
                status, phrase = (405, "Method Not Allowed") if known else (404, "Not Found")
                raise RequestError(phrase, status=status, kind=phrase)
            await handler(scope, receive, send)
        except RequestError as error:
            await respond(send, error_body(str(error), error.kind, error.param, error.status), error.status)
        except EngineDeadError:
            await respond(send, error_body(_DEAD, "InternalServerError", None, 500), 500)
        except ClientGone:
            pass

    # What the engine says of itself.

    async def _health(self, scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, b"", 503 if self._driver.dead else 200, headers=[])

    async def _version(self, scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, msgspec.json.encode({"version": self._served.version}))

    async def _load(self, scope: Any, receive: Receive, send: Send) -> None:
        await respond(send, msgspec.json.encode({"server_load": self._active}))

    async def _models(self, scope: Any, receive: Receive, send: Send) -> None:
        served = self._served
        permission = {
            "id": f"modelperm-{os.urandom(16).hex()}",
            "object": "model_permission",
            "created": served.created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        cards = [
            {
                "id": name,
                "object": "model",
                "created": served.created,
                "owned_by": "vllm",
                "root": served.model,
                "parent": None,
                "max_model_len": served.max_model_len,
                "permission": [permission],
            }
            for name in served.names
        ]
        await respond(send, msgspec.json.encode({"object": "list", "data": cards}))

    # Tokens.

    async def _tokenize(self, scope: Any, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        fields = Fields(body)
        if "messages" in body:
            tokens = self._prompts.chat_prompt(fields).tokens.tolist()
        else:
            text = fields.text("prompt")
            if text is None:
                raise RequestError("1 validation error:\n  Field required: body.prompt", kind="Bad Request")
            tokens = tokenizer.encode(text).tolist()
        texts = [tokenizer.token_text(token) for token in tokens] if fields.boolean("return_token_strs") else None
        reply = {
            "count": len(tokens),
            "max_model_len": self._served.max_model_len,
            "tokens": tokens,
            "token_strs": texts,
        }
        await respond(send, msgspec.json.encode(reply))

    async def _detokenize(self, scope: Any, receive: Receive, send: Send) -> None:
        fields = Fields(await self._body(scope, receive))
        try:
            text = tokenizer.decode(fields.integers("tokens"), keep_special=True)
        except ValueError as error:
            raise RequestError(str(error), param="tokens") from error
        await respond(send, msgspec.json.encode({"prompt": text}))

    # Answers.

    async def _chat(self, scope: Any, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        generation = self._prompts.chat(body, _unpredictable())
        await self._generate(scope, send, generation, "chatcmpl")

    async def _completion(self, scope: Any, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        generation = self._prompts.completion(body, _unpredictable())
        await self._generate(scope, send, generation, "cmpl")

    async def _generate(self, scope: Any, send: Send, generation: Generation, prefix: str) -> None:
        base = _header(scope, b"x-request-id") or generation.request_id or os.urandom(16).hex()
        identifier = f"{prefix}-{base}"
        served = self._served
        writer = Writer(
            generation,
            identifier,
            served.names[0],
            int(time.time()),
            served.fingerprint,
            served.prompt_tokens_details,
        )
        connection: Connection = scope["state"]["connection"]
        answer = Answer(self._driver, generation, identifier, served.max_model_len)
        connection.on_lost = answer.client_gone
        self._active += 1
        try:
            with answer:
                if generation.stream:
                    await self._stream(send, generation, writer, answer)
                else:
                    await self._whole(send, generation, writer, answer)
        finally:
            self._active -= 1
            connection.on_lost = None

    async def _whole(self, send: Send, generation: Generation, writer: Writer, answer: Answer) -> None:
        kv_params, ec_params = None, None
        while answer.unfinished:
            choice, output = await answer.next()
            if output.finish_reason == "error":
                raise RequestError("Internal server error", status=500, kind="InternalServerError")
            if output.finish_reason == "dead":
                raise EngineDeadError
            choice.take(output, ())
            if output.finish_reason is not None:
                choice.cached_tokens = output.request.cached_tokens
                if choice.index == 0:
                    kv_params, ec_params = output.kv_transfer_params, output.ec_transfer_params
        await respond(send, writer.whole(answer.choices, kv_params, ec_params))

    async def _stream(self, send: Send, generation: Generation, writer: Writer, answer: Answer) -> None:
        """Headers go out before the engine said anything, as vLLM's do: a 200 proves nothing."""
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
        opened = False
        stops = () if generation.sampling.include_stop else generation.sampling.stop
        while answer.unfinished:
            choice, output = await answer.next()
            if output.finish_reason == "dead":
                await _send_part(send, _error_event(_DEAD))
                break
            if not opened:
                opened = True
                for part in writer.opening():
                    await _send_part(send, part)
            if output.finish_reason == "error":
                await _send_part(send, _error_event("Internal server error"))
                break
            text = choice.take(output, stops)
            if output.finish_reason is not None:
                choice.cached_tokens = output.request.cached_tokens
            part_or_none = writer.delta(choice, text, output)
            if part_or_none is not None:
                await _send_part(send, part_or_none)
        else:
            for part in writer.closing(answer.choices):
                await _send_part(send, part)
        await send({"type": "http.response.body", "body": DONE, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self, scope: Any, receive: Receive) -> dict[str, Any]:
        """The JSON object of a request whose model is served here."""
        chunks = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        content_type = (_header(scope, b"content-type") or "").split(";")[0].strip().lower()
        if content_type != "application/json":
            raise RequestError(
                "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request"
            )
        try:
            body = msgspec.json.decode(b"".join(chunks))
        except msgspec.DecodeError as error:
            raise RequestError(f"1 validation error:\n  JSON decode error: {error}", kind="Bad Request") from error
        if not isinstance(body, dict):
            raise RequestError("1 validation error:\n  Input should be a valid dictionary", kind="Bad Request")
        model = Fields(body).text("model")
        if model and model not in self._served.names:
            raise RequestError(
                f"The model `{model}` does not exist. Valid aliases: {', '.join(self._served.names)}.",
                status=404,
                kind="NotFoundError",
                param="model",
            )
        return body


async def respond(send: Send, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] = _JSON) -> None:
    """A whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


def _error_event(message: str) -> bytes:
    return b"data: " + error_body(message, "InternalServerError", None, 500) + b"\n\n"


def _header(scope: Any, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def _unpredictable() -> int:
    return int.from_bytes(os.urandom(8), "little")
