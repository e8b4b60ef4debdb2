"""Prefill's leg: one token, whose KV cache decode goes on from."""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import assemble
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.flows.legs import Buffers
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.scheduling.target import Target

PREFILL = "prefill"
_REPLACED = frozenset(("ec_transfer_params",))


class _PrefillReply(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_reply_decoder = msgspec.json.Decoder(_PrefillReply)


def prefill_body(context: Context, media: EncodedMedia | None, members: bytes = b"") -> Buffers:
    """The body that ends after one token, with what prefill gets of the media; `members` are more members, as JSON
    text with a comma at the end."""
    view = context.view
    fields = view.fields
    without = view.surface.prefill_without
    members = (members or view.surface.prefill_alone(fields)) + view.surface.one_token
    if media is not None:
        fields = media.reader_fields()
        embeddings = media.reader_members()
        if embeddings:
            members += b"," + embeddings
            without |= _REPLACED
    if "max_completion_tokens" in fields:
        # Of the two limits vLLM takes this one.
        members += b',"max_completion_tokens":1'
    return assemble(fields, members, without, view.size)


def handed_over(prefill: Target, reply: WholeReply) -> msgspec.Raw | None:
    """The `kv_transfer_params` for decode in prefill's reply; None when it handed nothing over, which engines do for
    a prompt too short to be worth it. Raises `LegFailed`."""
    try:
        params = _reply_decoder.decode(reply.body).kv_transfer_params
    except UNREADABLE as error:
        raise LegFailed(PREFILL, prefill, "protocol", "its reply is not a completion") from error
    return None if bytes(params) == b"null" else params
