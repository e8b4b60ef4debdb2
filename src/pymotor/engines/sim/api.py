"""The ASGI application: vLLM's routes over one engine."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from pymotor.engines.sim.about import About
from pymotor.engines.sim.answering import DEAD_MESSAGE, Answering, BrokenOffError
from pymotor.engines.sim.answers import ClientGone
from pymotor.engines.sim.completions import Completions
from pymotor.engines.sim.control import Control
from pymotor.engines.sim.errors import MediaUnavailableError, RequestError, error_body
from pymotor.engines.sim.exchange import Exchange, Receive, Send
from pymotor.engines.sim.messages import Messages
from pymotor.engines.sim.requests import EngineDeadError
from pymotor.engines.sim.responses_api import Responses

Handler = Callable[[Exchange], Awaitable[None]]


class Application:
    """Routes requests to one engine: what every engine has, and `routes`, what this one computes."""

    def __init__(
        self,
        about: About,
        answering: Answering,
        routes: Mapping[tuple[str, str], Handler],
        control: Control | None,
        *,
        api_keys: Sequence[str] = (),
        echo_request_id: bool = False,
    ) -> None:
        self._echo_request_id = echo_request_id
        self._control = control
        self._api_keys = [key.encode() for key in api_keys]
        self._answering = answering
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): about.health,
            ("GET", "/ping"): about.health,
            ("POST", "/ping"): about.health,
            ("GET", "/version"): about.version,
            ("GET", "/metrics"): about.metrics,
            ("GET", "/load"): self._load,
            ("GET", "/kv_event_sources"): about.kv_event_sources,
            ("GET", "/v1/models"): about.models,
            ("POST", "/tokenize"): about.tokenize,
            ("POST", "/detokenize"): about.detokenize,
            **routes,
        }
        if control is not None:
            self._routes |= {
                ("GET", "/sim/faults"): control.show_faults,
                ("POST", "/sim/faults"): control.add_faults,
                ("DELETE", "/sim/faults"): control.clear_faults,
                ("GET", "/sim/state"): control.state,
                ("GET", "/sim/traces"): control.show_traces,
                ("POST", "/reset_prefix_cache"): control.reset_cache,
                ("POST", "/start_profile"): control.profile,
                ("POST", "/stop_profile"): control.profile,
            }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One request."""
        exchange = Exchange(scope, receive, send, echo_request_id=self._echo_request_id)
        if self._control is not None:
            self._control.note_trace(exchange)
        try:
            if not self._authorized(exchange):
                await exchange.respond(b'{"error":"Unauthorized"}', 401)
                return
            handler = self._routes.get((exchange.method, _route(exchange.path)))
            await (self._no_route(exchange) if handler is None else handler(exchange))
        except RequestError as error:
            await exchange.respond(error_body(str(error), error.kind, error.param, error.status), error.status)
            if isinstance(error, MediaUnavailableError):
                exchange.connection.doom()
        except EngineDeadError:
            await exchange.respond(error_body(DEAD_MESSAGE, "InternalServerError", None, 500), 500)
        except BrokenOffError:
            exchange.connection.break_off()
        except ClientGone:
            exchange.connection.abandon()

    async def _no_route(self, exchange: Exchange) -> None:
        allowed = sorted(method for method, path in self._routes if path == _route(exchange.path))
        status, detail = (405, "Method Not Allowed") if allowed else (404, "Not Found")
        headers = [(b"allow", ", ".join(allowed).encode())] if allowed else []
        await exchange.respond(msgspec.json.encode({"detail": detail}), status, more_headers=headers)

    def _authorized(self, exchange: Exchange) -> bool:
        if not self._api_keys or not exchange.path.startswith(("/v1", "/v2", "/inference", "/cohere")):
            return True
        scheme, _, given = (exchange.header(b"authorization") or "").partition(" ")
        known = [hmac.compare_digest(given.encode(), key) for key in self._api_keys]
        return scheme.lower() == "bearer" and any(known)

    async def _load(self, exchange: Exchange) -> None:
        await exchange.respond(msgspec.json.encode({"server_load": self._answering.active}))


def generating_routes(
    completions: Completions, messages: Messages, responses: Responses
) -> dict[tuple[str, str], Handler]:
    """The routes of an engine that generates."""
    return {
        ("POST", "/v1/chat/completions"): completions.chat,
        ("POST", "/v1/completions"): completions.completion,
        ("POST", "/v1/messages"): messages.create,
        ("POST", "/v1/messages/count_tokens"): messages.count_tokens,
        ("POST", "/v1/responses"): responses.create,
        ("GET", "/v1/responses/{id}"): responses.retrieve,
        ("POST", "/v1/responses/{id}/cancel"): responses.cancel,
    }


def _route(path: str) -> str:
    """The path with the id of a response left open."""
    parts = path.split("/")
    if len(parts) > 3 and parts[:3] == ["", "v1", "responses"] and parts[3]:
        parts[3] = "{id}"
        return "/".join(parts)
    return path
