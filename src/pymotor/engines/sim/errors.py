"""Refusals, in the shape of vLLM's error objects."""

from __future__ import annotations

import msgspec


class RequestError(Exception):
    """A request that cannot be served; becomes `{"error": {"message", "type", "param", "code"}}`."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param


class MediaUnavailableError(RequestError):
    """Media that cannot be read: vLLM calls that its own fault, says 500, and then closes the connection."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=500, kind="InternalServerError")


def error_body(message: str, kind: str, param: str | None, code: int) -> bytes:
    """An error object as JSON, keys in vLLM's order."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
