"""What requests to engines cost, counted against the limits and for the metrics of keys."""

from __future__ import annotations

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.limits.rate_limits import RateLimits
from pymotor.coordinator.limits.usage import KeyUsage
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.scheduling.room import EXPECTED_ANSWER_TOKENS

UNLIMITED = -1
"""The charge of a request that limits do not concern."""
_WENT_AWAY = 499


class Meter:
    """Charges requests, and settles what they have cost."""

    __slots__ = ("_instruments", "_limits", "_usage")

    def __init__(self, limits: RateLimits | None, usage: KeyUsage | None, instruments: Instruments) -> None:
        self._instruments = instruments
        self._limits = limits
        self._usage = usage

    def admit(self, request: ClientRequest, view: RequestView) -> None:
        """Take what the request is expected to cost. Raises `ApiError` where the limit is reached."""
        if self._limits is not None and request.charge != UNLIMITED:
            tokens = _expected(view)
            try:
                self._limits.take_tokens(request.key, tokens)
            except ApiError:
                self._instruments.rejected("rate_limit")
                raise
            request.charge = tokens

    def settle(self, request: ClientRequest, context: Context | None, status: int) -> None:
        """The request is over: what it was charged with becomes what it has cost."""
        usage = context.usage if context is not None else None
        if usage is not None:
            prompt, answer = usage.prompt, usage.answer
        else:
            prompt, answer = _guessed(context, status)
        if self._limits is not None and request.charge > 0:
            self._limits.correct_tokens(request.key, prompt + answer - request.charge)
        if self._usage is not None and request.key is not None:
            self._usage.answered(request.key.name, status, prompt, answer)


def _expected(view: RequestView) -> int:
    """Tokens of the prompt and of the answers that are likely."""
    answers = view.n * (len(view.prompts) or 1)
    return view.prompt_tokens + min(view.answer_tokens, EXPECTED_ANSWER_TOKENS) * answers


def _guessed(context: Context | None, status: int) -> tuple[int, int]:
    """Tokens of the prompt and of the answer where the answer did not say; nothing where there was no answer."""
    if context is None:
        return 0, 0
    if not context.committed and status != _WENT_AWAY:
        return 0, 0
    return context.view.prompt_tokens, _generated(context)


def _generated(context: Context) -> int:
    """Tokens of a stream: its token ids where they were kept, else its events."""
    so_far = context.so_far
    if isinstance(so_far, AnswerSoFar) and so_far.generated:
        return so_far.generated
    return context.events
