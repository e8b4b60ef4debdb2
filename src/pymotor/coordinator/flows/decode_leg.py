"""What decode gets of a request whose prompt prefill has computed."""

from __future__ import annotations

from pymotor.coordinator.api.request_view import assemble
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.flows.legs import Buffers

DECODE = "decode"
_WITHOUT = frozenset(("kv_transfer_params",))


def decode_body(context: Context, media: EncodedMedia | None, handoff: bytes | None) -> Buffers:
    """The request with the members that say where its KV cache comes from, JSON text such as
    `"kv_transfer_params":{}`, or as the client sent it where there are none.

    Decode needs no media when it gets the KV cache of it. When it has to compute, it does; metadata alone would then
    kill the engine.
    """
    view = context.view
    if handoff is None:
        return view.body
    fields = view.fields if media is None else media.decode_fields()
    return assemble(fields, handoff, _WITHOUT, view.size)
