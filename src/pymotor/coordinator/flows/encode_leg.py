"""One media item to an encoder: to another when that fails, to a second one as well when it is silent.

Where encoders write into a store, no two have an item at once: the leg to a silent one is closed before the second
begins, and workers agree on the encoder (`scheduling.item_claims`).

An endpoint that refuses or is busy has harmed nobody and is simply passed over. After any other failure the item goes
to one more endpoint only: it may be what broke the first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from time import monotonic
from typing import Any

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError
from pymotor.coordinator.api.media import MediaItem, check_source
from pymotor.coordinator.api.request_view import assemble, with_member
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encoded_media import PROCESSOR_FIELDS
from pymotor.coordinator.flows.leg_failures import CLOSED, LegFailed
from pymotor.coordinator.flows.legs import Buffers, whole_leg
from pymotor.coordinator.flows.together import end
from pymotor.coordinator.http.exchange import NO_CONNECTION
from pymotor.coordinator.routing import Encoders
from pymotor.coordinator.scheduling.encoder_choice import NoEncoderLeft
from pymotor.coordinator.scheduling.encodings import Encoding
from pymotor.coordinator.scheduling.item_claims import Claim
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN
from pymotor.coordinator.scheduling.target import Held, Reservation, Target
from pymotor.coordinator.trail import QUEUE

ENCODE = "encode"
"""The legs' name; what they brought to a store stays good when a later leg is tried again."""
_CHAT_PATH = b"/v1/chat/completions"
_FAILURES = 2
_TYPE = frozenset(("type",))
_TAKE_OVER_SECONDS = 0.1
_LOOK_SECONDS = 0.02
"""Between two looks whether an encoder that failed here is through with another worker's leg for the same item."""


class _Item(msgspec.Struct):
    metadata: dict[str, msgspec.Raw] | None = None


class _EncodeReply(msgspec.Struct):
    ec_transfer_params: dict[str, msgspec.Raw] | None = None


_reply_decoder = msgspec.json.Decoder(_EncodeReply)
_item_decoder = msgspec.json.Decoder(_Item)


class EncodeLegs:
    """The legs of one item, from first to last."""

    __slots__ = ("_body", "_context", "_encoders", "_failures", "_item", "_left", "_push_to", "_sent_to", "_stored")

    def __init__(
        self, context: Context, encoders: Encoders, item: MediaItem, push_to: str = "", *, stored: bool = False
    ) -> None:
        """`push_to` is the consumer's control address where encoders push; `stored`: they write into a store."""
        self._context = context
        self._encoders = encoders
        self._item = item
        self._push_to = push_to
        self._stored = stored
        self._body = _body(context, item)
        self._failures = 0
        self._left = len(encoders.group)
        self._sent_to: set[str] = set()

    async def run(self) -> Encoding:
        """The item's encoding. Raises `LegFailed` of the last leg, `ApiError` (400) for a source not to be used."""
        hedge_after = self._context.settings.hedge_after
        # A push that loses would hold its place in the consumer's memory until that expires.
        if hedge_after and len(self._encoders.group) > 1 and not self._push_to:
            return await self._run_hedged(hedge_after)
        while True:
            found = await self._next_leg()
            if isinstance(found, Encoding):
                return found
            if not self._may_go_on(found):
                raise found

    async def _run_hedged(self, hedge_after: float) -> Encoding:
        """With two legs at the same time at most, one where encoders write into a store. What still runs at the end is
        closed before this returns."""
        services = self._context.services
        legs = {services.loop.create_task(self._next_leg())}
        hedged = False
        try:
            while True:
                silence = hedge_after if self._left and not hedged else None
                done, legs = await asyncio.wait(legs, timeout=silence, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    hedged = True
                    if self._has_place() and services.retry_budget.take(monotonic()):
                        services.instruments.hedged_legs.add()
                        if self._stored:
                            done, legs = await _closed(legs), set()
                        if not done:
                            legs.add(services.loop.create_task(self._next_leg()))
                failures = []
                refused: ApiError | None = None
                for leg in done:
                    error = leg.exception()
                    if isinstance(error, ApiError):
                        refused = error
                        continue
                    found = leg.result()
                    if isinstance(found, Encoding):
                        return found
                    failures.append(found)
                if refused is not None and not legs and not failures:
                    # Without a place for this one there was none for another either, or there is no other.
                    raise refused
                for failure in failures:
                    if not self._may_go_on(failure) and (failure.clients_fault or not legs):
                        raise failure
                if not legs:
                    legs.add(services.loop.create_task(self._next_leg()))
        finally:
            await end(legs)

    def _has_place(self) -> bool:
        """Whether an endpoint that this item was not sent to may have it at once."""
        closed = self._context.services.closed.ids
        if closed and all(one.endpoint_id in closed | self._sent_to for one in self._encoders.group.targets):
            return False
        admission = self._context.services.admission
        if not admission.limited:
            return True
        return admission.room.has_places(self._encoders.group, 1, frozenset(self._sent_to))

    def _may_go_on(self, failure: LegFailed) -> bool:
        """Whether the item goes to one more endpoint after this failure."""
        context = self._context
        context.spare(failure.target.endpoint_id)
        if not failure.harmless:
            self._failures += 1
        now = monotonic()
        if failure.clients_fault or self._failures >= _FAILURES or not self._left or now >= context.whole_by:
            return False
        return failure.reason in NO_CONNECTION or context.services.retry_budget.take(now)

    def _next_leg(self) -> Coroutine[Any, Any, Encoding | LegFailed]:
        """A leg to an endpoint that this item was not sent to yet; there must be one left."""
        self._left -= 1
        return self._leg()

    def _choose(self) -> Target:
        """The endpoint for the next leg: by affinity, sparing those that failed this request, whose circuits are open
        or which have as many requests as they may. Raises `NoEncoderLeft` when all that are left are closed."""
        services, item, encoders = self._context.services, self._item, self._encoders
        avoided = self._context.avoid
        now = monotonic()
        if services.circuits.tripped:
            avoided |= services.circuits.barred(now)
        if services.admission.limited:
            avoided |= services.admission.room.full(encoders.group)
        load = item.tokens * TENTHS_PER_ACTIVE_TOKEN
        excluded = self._sent_to | services.closed.ids if services.closed.ids else self._sent_to
        target = encoders.group.targets[encoders.choice.choose(item.key, load, excluded, avoided)]
        if self._context.trail is not None:
            self._context.trail.chose(services.ledger, encoders.group, target, excluded | avoided)
        self._sent_to.add(target.endpoint_id)
        if services.circuits.tripped:
            services.circuits.probe(target, now)
        return target

    async def _leg(self) -> Encoding | LegFailed:
        context = self._context
        if context.services.admission.limited:
            await self._admitted()
        claims = context.services.item_claims
        claim: Claim | None = None
        try:
            if self._stored and claims.needed and len(self._encoders.group) > 1:
                claim = await self._claim()
                target = self._target_at(claim.row)
            else:
                target = self._choose()
        except NoEncoderLeft:
            self._left = 0
            target = self._encoders.group.targets[0]
            return LegFailed(ENCODE, target, CLOSED, "it gets nothing new any more, nor do its like")
        try:
            return await self._leg_to(target)
        finally:
            if claim is not None:
                claims.release(claim)

    async def _admitted(self) -> None:
        """Return when an encoder has a free place."""
        context = self._context
        waiting = None if context.trail is None else context.trail.begin_wait(QUEUE, item=self._item_number())
        try:
            await context.services.admission.admit_item(context, self._encoders.group)
        finally:
            if waiting is not None:
                waiting.end()

    def _item_number(self) -> str:
        """Which of the request's items it is, for its trail."""
        if self._context.trail is None:
            return ""
        media = self._context.view.media
        return str(next((number for number, item in enumerate(media) if item is self._item), ""))

    async def _claim(self) -> Claim:
        """Choose the endpoint for the next leg, and claim the item for it: the one that has the item already, if any.

        Where that one is closed, or this item's leg has failed there, wait until the other worker's leg is over. Raises
        `NoEncoderLeft`.
        """
        claims = self._context.services.item_claims
        while True:
            with contextlib.suppress(_HeldElsewhere):
                return claims.claim(self._item.key, self._choose_row)
            await asyncio.sleep(_LOOK_SECONDS)

    def _choose_row(self, holder: int | None) -> int:
        """As `_choose`, by ledger row; raises `_HeldElsewhere` when it cannot be the `holder`, who has the item."""
        target = None if holder is None else self._target_or_none(holder)
        if target is None:
            return self._choose().row
        if target.endpoint_id in self._sent_to or target.endpoint_id in self._context.services.closed.ids:
            if monotonic() >= self._context.whole_by:
                return self._choose().row
            raise _HeldElsewhere
        self._sent_to.add(target.endpoint_id)
        return target.row

    def _target_or_none(self, row: int) -> Target | None:
        return next((target for target in self._encoders.group.targets if target.row == row), None)

    def _target_at(self, row: int) -> Target:
        return next(target for target in self._encoders.group.targets if target.row == row)

    async def _leg_to(self, target: Target) -> Encoding | LegFailed:
        context, item = self._context, self._item
        check_source(item, target.instance.allowed_local_media_path)
        ids = context.services.ids
        buffers = self._body
        transfer_id = ""
        if self._push_to:
            transfer_id = ids.next().decode()
            params = {"consumer_zmq": self._push_to, "ec_items": [{"transfer_id": transfer_id}]}
            buffers = with_member(buffers, b'"ec_transfer_params":%b' % msgspec.json.encode(params))
        reservation = Reservation.on(target, item.tokens)
        try:
            reply = await whole_leg(
                context, ENCODE, target, buffers, ids.next(), path=_CHAT_PATH, item=self._item_number()
            )
            if not self._stored:
                self._keep(target)
        except LegFailed as failure:
            return failure
        finally:
            reservation.end()
        found = _encoding(target.instance.name, reply.body, transfer_id)
        return found if self._stored else msgspec.structs.replace(found, held_at=target)

    def _keep(self, target: Target) -> None:
        """The embeddings are at `target` yet: it is held until each request that waits for them does so itself, which
        is some turns of the loop later."""
        held = Held()
        held.add(target)
        self._context.services.loop.call_later(_TAKE_OVER_SECONDS, held.end)


class _HeldElsewhere(Exception):
    """Another worker's leg has the item with an encoder that failed here."""


async def _closed(legs: set[asyncio.Task[Encoding | LegFailed]]) -> set[asyncio.Task[Encoding | LegFailed]]:
    """Close the legs; returns those that were through before they noticed."""
    for leg in legs:
        leg.cancel()
    await asyncio.wait(legs)
    return {leg for leg in legs if not leg.cancelled()}


def _body(context: Context, item: MediaItem) -> Buffers:
    """A chat request with this one part, whose media are not copied."""
    view = context.view
    part = item.chat_part
    options = b"".join(
        b'"%b":%b,' % (name.encode(), bytes(view.fields[name])) for name in PROCESSOR_FIELDS if name in view.fields
    )
    head = b'{"model":%b,"max_tokens":1,"stream":false,%b"messages":[{"role":"user","content":['
    kind = part.get("type") or msgspec.json.encode(item.kind)
    content = assemble(part, b'"type":%b' % bytes(kind), _TYPE, item.size)
    return [head % (bytes(view.fields["model"]), options), *content, b"]}]}"]


def _encoding(encoder: str, body: bytes, transfer_id: str) -> Encoding:
    """What an encoder's reply says. Engines before vLLM 0.32 name neither identifier nor metadata."""
    try:
        params = _reply_decoder.decode(body).ec_transfer_params
        if not params:
            return Encoding(encoder, transfer_id=transfer_id)
        identifier, said = next(iter(params.items()))
        metadata = _item_decoder.decode(said).metadata
    except UNREADABLE:
        return Encoding(encoder, transfer_id=transfer_id)
    if len(params) > 1:
        # Which of them names the item is not said.
        return Encoding(encoder, parameters=params, transfer_id=transfer_id)
    known = msgspec.Raw(msgspec.json.encode(metadata)) if metadata else None
    return Encoding(encoder, identifier, known, params, transfer_id=transfer_id)
