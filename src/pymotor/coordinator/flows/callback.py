"""Decode first; it calls back, prefill then writes the KV cache into its blocks, layer by layer (`callback`).

What PyMotor's users know as CDP: the Coordinator calls decode, then prefill. Decode gets the request with the
address of this worker's metaserver, allocates blocks and posts where they are; the worker sends the request with
those parameters to prefill, and answers the callback when prefill has answered. Protocol: vLLM-Ascend's
MooncakeLayerwiseConnector, which does not look at the status of that answer: a decode leg whose KV cache will not
come has to be closed, or it waits for ever.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.api.errors import ServiceUnavailable
from pymotor.coordinator.api.responses import response_id
from pymotor.coordinator.callbacks import Awaited
from pymotor.coordinator.flows.context import Beside, Context
from pymotor.coordinator.flows.decode_leg import DECODE, decode_body, spare_prefill
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.leg_failures import LegFailed, failed
from pymotor.coordinator.flows.legs import whole_leg
from pymotor.coordinator.flows.prefill_leg import PREFILL, prefill_body
from pymotor.coordinator.flows.reservations import reserve_pair, reserve_prefill
from pymotor.coordinator.flows.together import beside
from pymotor.coordinator.http.exchange import NO_CONNECTION, DeadlineExceeded
from pymotor.coordinator.routing import Pair
from pymotor.coordinator.scheduling.target import Held, Reservation, Target

_HANDOFF = b'"kv_transfer_params":{"do_remote_decode":false,"do_remote_prefill":true,"metaserver":"%b"}'
LARGEST_BATCH = 16
"""Prompts in one request. Decode has 32 threads for callbacks, each of which waits until the last prompt's has come:
were they fewer than the prompts, all would wait for ever."""
_UNSEEN = NO_CONNECTION | {"busy"}
"""Reasons for which prefill has not begun, so that another can do the same while decode waits."""


async def callback(context: Context, pair: Pair, finish: Finish[Result]) -> Result:
    """Send the request through a prefill and a decode endpoint of `pair`; `finish` runs decode and its result is the
    result. Raises `LegFailed`, `ApiError`."""
    services = context.services
    url = services.callbacks.url
    if not url:
        raise ServiceUnavailable("decode engines cannot call this worker back: it has no port for callbacks")
    prefill_charge, decode_charge = reserve_pair(context, pair.prefills, pair.decodes)
    decode = decode_charge.target
    prefill: _Prefill | None = None
    try:
        consumers = (prefill_charge.target, decode)
        media = await encode_media(context, pair.encoders, consumers) if context.view.media else None
        leg_id = services.ids.next()
        body = decode_body(context, media, _HANDOFF % url.encode())
        with services.callbacks.expect(engine_ids(context, decode, leg_id)) as awaited:
            # Prefill's answer does not wait for the last of its KV cache to be written.
            writing = Held()
            prefill = _Prefill(context, pair, prefill_charge, media, leg_id, awaited, writing)
            context.beside = Beside(PREFILL, prefill_charge.target, monotonic())
            return await beside(
                services.loop,
                finish(context, DECODE, decode, body, leg_id, writing, None),
                prefill.when_called(decode_charge),
                lambda: context.committed,
            )
    except LegFailed as failure:
        if prefill is not None and prefill.done:
            spare_prefill(context, failure, prefill.charge.target)
        raise
    finally:
        context.beside = None
        if prefill is not None:
            prefill.writing.end()
        if context.fetching is not None:
            context.note_fetched()
        charge = prefill_charge if prefill is None else prefill.charge
        if charge.open:
            charge.end()
        decode_charge.end()


def engine_ids(context: Context, target: Target, leg_id: bytes) -> list[str]:
    """What vLLM calls the requests it makes of one leg to `target`, one for each prompt."""
    view = context.view
    own = leg_id.decode()
    if view.surface.names_answers:
        return [f"{response_id(leg_id, target.endpoint_id).decode()}_0"]
    if view.surface.path == b"/v1/completions":
        return [f"cmpl-{own}-{number}" for number in range(len(view.prompts) or 1)]
    return [f"chatcmpl-{own}"]


class _Prefill:
    """Prefill's side of one request."""

    def __init__(
        self,
        context: Context,
        pair: Pair,
        charge: Reservation,
        media: EncodedMedia | None,
        leg_id: bytes,
        awaited: Awaited,
        writing: Held,
    ) -> None:
        self._context = context
        self._pair = pair
        self._media = media
        self._leg_id = leg_id
        self._awaited = awaited
        self.writing = writing
        """Holds the endpoint that has written, until decode has content."""
        self._until = monotonic() + context.settings.first_token_timeout
        self.charge = charge
        """On the endpoint that has the leg; another one's after a change. The flow ends it where this does not."""
        self.done = False
        """Whether it says that the KV cache is written."""

    async def when_called(self, decode_charge: Reservation) -> None:
        """Wait for the callbacks and have the KV cache written. Raises `LegFailed`."""
        context = self._context
        seconds = context.settings.first_token_timeout
        # Not `wait_for`: before Python 3.12 it is deaf to a cancellation in the moment in which the callback comes.
        arrived, _ = await asyncio.wait((self._awaited.arrived,), timeout=seconds)
        if not arrived:
            late = DeadlineExceeded(f"it has not called back for its KV cache within {seconds:g} s")
            raise failed(context, DECODE, decode_charge.target, late)
        members = b'"kv_transfer_params":%b,' % _parameters(self._awaited)
        while True:
            if context.beside is not None:
                context.beside = Beside(PREFILL, self.charge.target, monotonic())
            body = prefill_body(context, self._media, members)
            try:
                await whole_leg(context, PREFILL, self.charge.target, body, self._leg_id, until=self._until)
            except LegFailed as failure:
                if not await self._go_elsewhere(failure):
                    raise
                continue
            self.done = True
            self._awaited.settle(True)
            context.note_fetched()
            self.writing.add(self.charge.target)
            self.charge.end()
            return

    async def _go_elsewhere(self, failure: LegFailed) -> bool:
        """Whether the leg can go to another endpoint, which is then charged."""
        context = self._context
        context.spare(failure.target.endpoint_id)
        group = context.services.closed.open_part(self._pair.prefills)
        if group is None:
            return False
        untried = any(target.endpoint_id not in context.avoid for target in group.targets)
        if failure.reason not in _UNSEEN or not untried:
            return False
        former, self.charge = self.charge, reserve_prefill(context, group)
        former.end()
        if self._media is not None:
            self._media = await encode_media(context, self._pair.encoders, (self.charge.target,))
        return True


def _parameters(awaited: Awaited) -> bytes:
    """What prefill gets: the callback's body, for several prompts the first one's with all of them by request id."""
    bodies = awaited.bodies
    first = bodies[awaited.ids[0]]
    if len(bodies) == 1:
        return first
    each = b",".join(b'"%b":%b' % (request_id.encode(), bodies[request_id]) for request_id in awaited.ids)
    return first.rstrip()[:-1] + b',"batch_kv_transfer_params":{' + each + b"}}"
