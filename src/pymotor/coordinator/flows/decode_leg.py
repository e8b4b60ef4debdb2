"""What decode gets of a request whose prompt prefill has computed."""

from __future__ import annotations

from pymotor.coordinator.api.request_view import assemble, with_member
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.flows.legs import Buffers
from pymotor.coordinator.http.exchange import NO_CONNECTION
from pymotor.coordinator.scheduling.target import Target

DECODE = "decode"
_WITHOUT = frozenset(("kv_transfer_params",))


_DECODES_OWN = NO_CONNECTION | {"busy", "expired"}


def spare_prefill(context: Context, failure: LegFailed, prefill: Target) -> None:
    """A leg has failed. Where decode did after it had got to the KV cache that `prefill` made, either may be to blame:
    the next try goes to another pair."""
    if failure.leg == DECODE and failure.reason not in _DECODES_OWN and not failure.clients_fault:
        context.spare(prefill.endpoint_id)


def decode_body(context: Context, media: EncodedMedia | None, handoff: bytes | None) -> Buffers:
    """The request with the members that say where its KV cache comes from, JSON text such as
    `"kv_transfer_params":{}`, or as the client sent it where there are none.

    Decode needs no media when it gets the KV cache of it. When it has to compute, it does; metadata alone would then
    kill the engine.
    """
    view = context.view
    if handoff is None:
        return view.body
    if media is not None:
        return assemble(media.decode_fields(), handoff, _WITHOUT, view.size)
    if _WITHOUT.isdisjoint(view.fields):
        # As the client sent it and a member more: nothing has to be encoded again.
        return with_member(view.body, handoff)
    return assemble(view.fields, handoff, _WITHOUT, view.size)
