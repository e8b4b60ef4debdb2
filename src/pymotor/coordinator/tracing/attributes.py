"""What a trace says of a request as a whole, by OpenTelemetry's semantic conventions for HTTP and generative AI.

Never prompts, answers, headers or keys; what a client chose itself is cut.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.following import FollowedRequest
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.tracing.otlp import Attributes

PROVIDER = "pymotor"
_LONGEST_TEXT = 256
_FAILED = 400
_OPERATIONS: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""By path, where the conventions have a name for what is done."""
_NUMBERS: Mapping[str, str] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_number_decoder = msgspec.json.Decoder(float | None)


def request_attributes(followed: FollowedRequest, scheme: str) -> Attributes:
    """Attributes of a request's own span; `scheme`: what clients speak, http or https."""
    request = followed.request
    attributes: Attributes = {
        "http.request.method": _text(request.method),
        "http.route": followed.path,
        "url.path": _text(request.path),
        "url.scheme": scheme,
        "http.response.status_code": followed.status,
        "http.request.body.size": len(request.body),
        "gen_ai.provider.name": PROVIDER,
    }
    if followed.status >= _FAILED:
        attributes["error.type"] = followed.reason or str(followed.status)
    request_id = request.headers.get(b"x-request-id")
    if request_id:
        attributes["pymotor.request_id"] = _text(request_id)
    operation = _OPERATIONS.get(followed.path)
    if operation is not None:
        attributes["gen_ai.operation.name"] = operation
    if followed.trail.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = followed.trail.finish_reasons
    if followed.context is not None:
        _add_context(attributes, followed.context)
    return attributes


def _add_context(attributes: Attributes, context: Context) -> None:
    view = context.view
    attributes["http.request.body.size"] = view.size
    attributes["gen_ai.request.stream"] = view.stream
    if view.model:
        attributes["gen_ai.request.model"] = view.model[:_LONGEST_TEXT]
    if view.answer_limit is not None:
        attributes["gen_ai.request.max_tokens"] = view.answer_limit
    if view.n > 1:
        attributes["gen_ai.request.choice.count"] = view.n
    for name, attribute in _NUMBERS.items():
        value = _number(view.fields.get(name))
        if value is not None:
            attributes[attribute] = value
    _add_answer(attributes, context)
    attributes["pymotor.media_items"] = context.media_items
    if context.leg_id:
        attributes["pymotor.engine_request_id"] = context.leg_id.decode()


def _add_answer(attributes: Attributes, context: Context) -> None:
    so_far = context.so_far
    if context.usage is not None:
        attributes["gen_ai.usage.input_tokens"] = context.usage.prompt
        attributes["gen_ai.usage.output_tokens"] = context.usage.answer
    elif isinstance(so_far, AnswerSoFar) and so_far.generated:
        attributes["gen_ai.usage.output_tokens"] = so_far.generated
    if context.answer_events:
        attributes["pymotor.answer_events"] = context.answer_events
    if context.answer_bytes:
        attributes["http.response.body.size"] = context.answer_bytes
    if context.first_token_seconds is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = context.first_token_seconds


def _number(raw: msgspec.Raw | None) -> float | None:
    if raw is None:
        return None
    try:
        value: float | None = _number_decoder.decode(raw)
    except UNREADABLE:
        return None
    return value


def _text(raw: bytes) -> str:
    return raw[:_LONGEST_TEXT].decode("utf-8", "replace")
