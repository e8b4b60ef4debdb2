"""A stream that broke off after content goes on from another engine.

The rest is a request of its own, a completion whose prompt is the tokens of the prompt and of the answer so far, and
takes whatever way the fleet offers now. Where that would not be exact, an answer that comes out the same each time is
asked for again from its beginning, and what the client has of it is left out. The client's stream stays open
meanwhile. Where neither is possible, or nobody can, the stream ends with an error event in the form of its path.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.surface import CHAT
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.keeping_relay import RestRelay
from pymotor.coordinator.flows.leg_failures import LegFailed, refused
from pymotor.coordinator.flows.legs import Buffers, exchange, leg_succeeded
from pymotor.coordinator.flows.trying_again import rest as wait_for
from pymotor.coordinator.flows.ways import choose_way, run_way
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.recovery.carrying_on import request_for_the_rest, wants_usage
from pymotor.coordinator.recovery.pauses import pause_before
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer, RepeatedAnswer
from pymotor.coordinator.recovery.rest_of_answer import RestOfAnswer, usage_event
from pymotor.coordinator.routing import Routes
from pymotor.coordinator.scheduling.target import Held, Reservation, Target


async def carry_on(
    context: Context, so_far: AnswerSoFar | RepeatableAnswer, routes: Callable[[], Routes], failure: LegFailed
) -> None:
    """End the client's stream properly, after `failure` of the leg that was streaming it: with the rest of the
    answer if anybody can give it, otherwise with an error event."""
    settings = context.settings
    broken_streams = context.services.instruments.carried_on
    told = failure.as_api_error()
    for tries in range(settings.recompute_max_retry + 1):
        if so_far.finished:
            _complete(context, so_far)
            broken_streams.child("completed").add()
            return
        so_far.rewind()
        rest = None
        if not so_far.impossible and not failure.clients_fault:
            rest = _context_of_rest(context, so_far, routes)
        if rest is None:
            _break_off(context, failure.leg, failure.target, told)
            broken_streams.child("impossible").add()
            return
        pause = pause_before(settings.retry_delay, tries)
        if tries == settings.recompute_max_retry or monotonic() + pause >= context.whole_by:
            break
        context.spare(failure.target.endpoint_id)
        rest.spare(*context.failed)
        if tries:
            await wait_for(context, pause)
        broken_streams.child("carried_on").add()
        try:
            await run_way(rest, choose_way(rest, routes()), _Finish(so_far, chat=context.view.surface is CHAT))
        except LegFailed as again:
            failure = again
            told = again.as_api_error()
        except ApiError as error:
            # Nobody can serve at the moment. Who broke off is as good as any.
            told = error
        else:
            context.status = rest.status
            return
    _break_off(context, failure.leg, failure.target, told)
    broken_streams.child("given_up").add()


def _context_of_rest(
    context: Context, so_far: AnswerSoFar | RepeatableAnswer, routes: Callable[[], Routes]
) -> Context | None:
    if isinstance(so_far, RepeatableAnswer):
        again = context.for_part(context.view)
        again.repeats = True
        return again
    try:
        longest = routes().max_model_len
    except ApiError:
        longest = None
    view = request_for_the_rest(context.view, so_far, longest)
    if view is None:
        return None
    return context.for_part(view)


def _complete(context: Context, so_far: AnswerSoFar | RepeatableAnswer) -> None:
    """Only the last events are missing; what they say is known."""
    last = context.view.surface.closing or b""
    if isinstance(so_far, AnswerSoFar) and wants_usage(context.view) and not so_far.usage_sent:
        last = usage_event(so_far, len(so_far.tokens(all_of_them=True))) + last
    context.end_stream(last)
    context.status = 200


def _break_off(context: Context, leg: str, target: Target, told: ApiError) -> None:
    message = f"{leg} on {target.instance.name} broke off and nobody could carry on: {told.detail.message}"
    context.end_stream(context.view.surface.broken_off(ApiError(502, message, code="stream_interrupted")))
    context.status = 502


class _Finish:
    """The last leg of the request for the rest: a `Finish`."""

    def __init__(self, so_far: AnswerSoFar | RepeatableAnswer, *, chat: bool) -> None:
        self._so_far = so_far
        self._chat = chat

    async def __call__(
        self,
        context: Context,
        leg: str,
        target: Target,
        buffers: Buffers,
        leg_id: bytes,
        first_content: Reservation | Held | None,
        send_by: float | None,
    ) -> None:
        """Write the rest behind the beginning. Raises `LegFailed`, and then the answer so far has grown."""
        since = monotonic()
        so_far = self._so_far
        rest = self._rest()
        # While an answer is repeated its events come and are not shown: silence is then what counts.
        until = min(context.whole_by, since + context.settings.first_token_timeout)
        relay = await exchange(
            context,
            leg,
            target,
            buffers,
            leg_id,
            lambda: RestRelay(context, leg, target, first_content, so_far, rest),
            send_by=send_by,
            until=None if isinstance(so_far, RepeatableAnswer) else until,
        )
        if relay.body is not None:
            if not 200 <= relay.status < 300:
                raise refused(context, leg, target, relay.status, b"".join(relay.body))
            raise LegFailed(leg, target, "protocol", "it answered a stream with something else")
        leg_succeeded(context, leg, target, since, noted=True)

    def _rest(self) -> RestOfAnswer | RepeatedAnswer:
        if isinstance(self._so_far, RepeatableAnswer):
            return RepeatedAnswer(self._so_far)
        return RestOfAnswer(self._so_far, chat=self._chat)
