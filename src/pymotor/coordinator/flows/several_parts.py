"""One of several answers that are streamed as one: from its first try until it is whole.

Nothing of a part is shown before its own first content, so one that fails earlier is tried again as a whole request
is, while the others go on. One that breaks off later is asked for again if it comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import doubt_encodings
from pymotor.coordinator.flows.last_leg import patience
from pymotor.coordinator.flows.leg_failures import LegFailed, refused
from pymotor.coordinator.flows.legs import Buffers, exchange, leg_succeeded
from pymotor.coordinator.flows.several_receiver import PartReceiver
from pymotor.coordinator.flows.several_stream import MergedStream
from pymotor.coordinator.flows.trying_again import pause_before_try, rest
from pymotor.coordinator.flows.ways import choose_way, run_way
from pymotor.coordinator.recovery.carrying_on import is_deterministic
from pymotor.coordinator.recovery.pauses import pause_before
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer, RepeatedAnswer
from pymotor.coordinator.recovery.tries import Tries
from pymotor.coordinator.routing import Pair, Routes, Single
from pymotor.coordinator.scheduling.target import Held, Reservation, Target


class Part:
    """One answer's part of a merged stream."""

    def __init__(
        self, context: Context, merged: MergedStream, view: RequestView, position: int, routes: Callable[[], Routes]
    ) -> None:
        """`context` is the whole request's, `view` and `position` are the part's; `routes` are asked for at each
        further try, since the fleet may have changed."""
        settings = context.settings
        self._context = context
        self._merged = merged
        self._view = view
        self._position = position
        self._routes = routes
        self._tries = Tries(settings)
        self._kept: RepeatableAnswer | None = None
        """What the client has of this part, where it could be asked for again."""
        if settings.recompute_enabled and context.kept and is_deterministic(view.fields):
            self._kept = RepeatableAnswer(usage_wanted=merged.wants_usage)
        self._begun = False
        self._asked_again = 0

    @property
    def repeats(self) -> bool:
        """Whether the part's request may be sent again even after its first content."""
        return self._kept is not None

    async def run(self, way: Pair | Single) -> None:
        """Bring the part to the client, by `way` at first. Raises `LegFailed` or `ApiError` when it cannot be: that of
        the whole request, as long as the client has been sent nothing."""
        try:
            while not await self._try(way):
                way = choose_way(self._next_context(), self._routes())
        except (LegFailed, ApiError):
            # Before another part writes on in the moment until it is cancelled.
            self._merged.given_up = True
            raise

    async def _try(self, way: Pair | Single) -> bool:
        """Whether the part is whole now; returns when it may be tried again. Raises `LegFailed`, `ApiError`."""
        context, merged = self._context, self._merged
        piece = self._next_context()
        finish = PartStream(merged, self._position, self._kept, repeated=self._begun)
        try:
            await run_way(piece, way, finish)
        except LegFailed as failure:
            doubt_encodings(piece, failure)
            context.spare(*piece.failed, failure.target.endpoint_id)
            self._begun = self._begun or piece.committed
            if merged.is_whole(self._position):
                context.services.instruments.carried_on.child("completed").add()
                return True
            if failure.clients_fault or not merged.begun:
                raise
            if self._begun:
                await self._pause_before_asking_again(failure)
                return False
            await pause_before_try(context, failure, self._tries)
            if self._kept is not None:
                self._kept = self._kept.anew()
            return False
        return True

    def _next_context(self) -> Context:
        context = self._context
        piece = context.for_part(self._view)
        piece.kept = context.kept
        piece.repeats = self.repeats
        piece.without_decode = context.without_decode
        return piece

    async def _pause_before_asking_again(self, failure: LegFailed) -> None:
        """The part broke off after content. Raises `failure` when it cannot be asked for again."""
        services = self._context.services
        settings = self._context.settings
        outcomes = services.instruments.carried_on
        if self._kept is not None:
            self._kept.rewind()
        if self._kept is None or self._kept.impossible:
            outcomes.child("impossible").add()
            raise failure
        pause = pause_before(settings.retry_delay, self._asked_again)
        if self._asked_again >= settings.recompute_max_retry or monotonic() + pause >= self._context.whole_by:
            outcomes.child("given_up").add()
            raise failure
        if self._asked_again:
            await rest(self._context, pause)
        self._asked_again += 1
        outcomes.child("carried_on").add()


class PartStream:
    """Runs the last leg of one try of a part: a `Finish`."""

    def __init__(
        self, merged: MergedStream, position: int, kept: RepeatableAnswer | None, *, repeated: bool = False
    ) -> None:
        """`kept` is what the client has of this part, None where that is not kept; `repeated`: it is left out of an
        answer that is given again."""
        self._merged = merged
        self._position = position
        self._kept = kept
        self._repeated = repeated

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
        """Send the part's request and merge its events. Raises `LegFailed`."""
        since = monotonic()
        context.sending = buffers
        kept = self._kept
        answer = RepeatedAnswer(kept) if kept is not None and self._repeated else kept
        receiver = await exchange(
            context,
            leg,
            target,
            buffers,
            leg_id,
            lambda: PartReceiver(context, leg, target, first_content, self._merged, self._position, answer),
            send_by=send_by,
            # While an answer is repeated its events come and are not shown: silence is then what counts.
            until=None if self._repeated else min(context.whole_by, since + patience(context)),
        )
        if receiver.body is not None:
            if not 200 <= receiver.status < 300:
                raise refused(context, leg, target, receiver.status, b"".join(receiver.body))
            raise LegFailed(leg, target, "protocol", "it answered a stream with something else")
        leg_succeeded(context, leg, target, since, noted=True)
