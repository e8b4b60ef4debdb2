"""Errors as clients of the OpenAI API expect them."""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What reading others' JSON may raise: not JSON or not of the form, not UTF-8, nested too deep."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "internal_error",
    501: "invalid_request_error",
    502: "upstream_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    429: "too_many_requests",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    502: "engine_error",
    503: "service_unavailable",
    504: "engine_timeout",
}
"""What `code` says where nothing more precise is known. All codes are words: docs/api.md has the table."""


RATE_LIMIT_CODE = "rate_limit_exceeded"
"""The `code` of a request beyond `rate_limit_config`, whatever its status."""


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """The `error` object of the OpenAI API."""

    message: str
    type: str
    param: str | None = None
    code: str


class ApiError(Exception):
    """A request ends with this status and error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        retry_after: float = 1.0,
    ) -> None:
        """`kind` is the error's `type`; without it the status decides. `retry_after`: seconds after which the client
        may try again, told with 429 and 503."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.detail = ErrorDetail(
            message=message,
            type=kind or _TYPES.get(status, "api_error"),
            param=param,
            code=code or _CODES.get(status, "error"),
        )

    @property
    def tells_when(self) -> bool:
        """Whether the client is told when to try again."""
        return self.status in (429, 503) or self.detail.code == RATE_LIMIT_CODE

    def body(self) -> bytes:
        """The response body."""
        return msgspec.json.encode({"error": self.detail})

    def event(self) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"


class ServiceUnavailable(ApiError):
    """Nobody can serve the request now; the body has the `detail` that PyMotor's users look for."""

    def __init__(self, reason: str) -> None:
        super().__init__(503, f"Service is not available: {reason}", code="service_unavailable")

    def body(self) -> bytes:
        """The response body."""
        return msgspec.json.encode({"detail": "Service is not available", "error": self.detail})


class _Named(msgspec.Struct):
    message: str = ""


class _EngineError(msgspec.Struct):
    error: _Named | str | None = None
    message: str = ""
    detail: str = ""


_engine_error = msgspec.json.Decoder(_EngineError)


def message_of(body: bytes) -> str:
    """What an engine's error body says, in whichever of the usual forms; empty when it says nothing."""
    try:
        found = _engine_error.decode(body)
    except UNREADABLE:
        return ""
    error = found.error.message if isinstance(found.error, _Named) else found.error
    return error or found.message or found.detail


def invalid(message: str, param: str | None = None) -> ApiError:
    """A 400: the client has to change the request."""
    return ApiError(400, message, param=param, code="invalid_request")
