"""Answers of the inference port that need no engine: models, health, and what nobody serves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from time import time
from urllib.parse import unquote_to_bytes

import msgspec

from pymotor.coordinator.api.errors import ApiError, ServiceUnavailable
from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.surface import CHAT
from pymotor.coordinator.routing import FleetView, Routes

_MODEL_PATH = b"/v1/models/"
_TOLD = 4
"""Reasons that a client is told why nothing is served."""
_SAFE = (b"GET", b"HEAD")


_ANSWERED = frozenset((b"/v1/models", b"/health", b"/liveness", b"/startup", b"/readiness"))


class PlainAnswers:
    """What is answered of one fleet without asking it."""

    def __init__(self) -> None:
        self.fleet: FleetView | None = None
        self._started = int(time())
        self._answers: dict[bytes, Callable[[], bytes]] = {
            b"/v1/models": self._models,
            b"/health": self._health,
            b"/liveness": self._health,
            b"/startup": self._health,
            b"/readiness": self._readiness,
        }

    def answer(self, method: bytes, path: bytes) -> tuple[int, bytes, bytes]:
        """Status, body and more header lines; 404 and 405 for what is not served."""
        found = self._answers.get(path)
        if found is None and path.startswith(_MODEL_PATH):
            found = partial(self._one_model, unquote_to_bytes(path[len(_MODEL_PATH) :]).decode("utf-8", "replace"))
        if found is not None and method in _SAFE:
            try:
                return 200, found(), b""
            except ApiError as error:
                return error.status, error.body(), retry_after(error)
        if found is not None:
            return not_allowed(method, path, b"GET, HEAD")
        if path in SURFACES:
            return not_allowed(method, path, b"POST")
        shown = path[:200].decode("latin-1")
        return 404, ApiError(404, f"there is nothing at {shown}").body(), b""

    def label(self, path: bytes) -> str:
        """The path as metrics name it."""
        return path_label(path)

    def routes(self, model: str) -> Routes:
        """The routes of a model. Raises `ApiError` (404, 503)."""
        routes = self.serving().routes.get(model)
        if routes is None:
            raise ApiError(
                404,
                f"the model {model[:200]!r} does not exist; GET /v1/models lists those that do",
                param="model",
                code="model_not_found",
            )
        return routes

    def serving(self) -> FleetView:
        """The fleet, which has something to serve. Raises `ApiError` (503)."""
        if self.fleet is None or not self.fleet.routes:
            missing = self.fleet.missing if self.fleet is not None else ()
            raise ServiceUnavailable("; ".join(("no engine can take requests yet", *missing[:_TOLD])))
        return self.fleet

    def _health(self) -> bytes:
        return b'{"status":"ok"}'

    def _readiness(self) -> bytes:
        self.serving()
        return b'{"status":"ready"}'

    def _models(self) -> bytes:
        routes = self.fleet.routes if self.fleet is not None else {}
        data = [self._model_object(model, found) for model, found in routes.items()]
        return msgspec.json.encode({"object": "list", "data": data})

    def _one_model(self, model: str) -> bytes:
        return msgspec.json.encode(self._model_object(model, self.routes(model)))

    def _model_object(self, model: str, routes: Routes) -> dict[str, object]:
        return {
            "id": model,
            "object": "model",
            "created": self._started,
            "owned_by": "pymotor",
            "root": model,
            "parent": None,
            "max_model_len": routes.max_model_len,
        }


def path_label(path: bytes) -> str:
    """A path as metrics name it: one that the gateway has, or `other`."""
    return path.decode("latin-1") if path in _ANSWERED or path in SURFACES else "other"


def retry_after(error: ApiError) -> bytes:
    """The header line that says when to try again, for errors that pass; else nothing."""
    return b"Retry-After: %d\r\n" % max(1, ceil(error.retry_after)) if error.tells_when else b""


def not_allowed(method: bytes, path: bytes, allowed: bytes) -> tuple[int, bytes, bytes]:
    """Status, body and header lines for a method that a path does not have."""
    told = ApiError(405, f"{method.decode()} is not allowed here; use {allowed.decode()}")
    return 405, SURFACES.get(path, CHAT).refusal(told), b"Allow: %b\r\n" % allowed
