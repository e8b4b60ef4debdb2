"""Prefill, then decode, which fetches the KV cache (`pull`) or finds it in a store both know (`store`).

What PyMotor's users know as CPCD: the Coordinator calls prefill, then decode. Prefill runs with one token to generate
and answers with `kv_transfer_params`, which decode gets unchanged. Protocol: vLLM's NixlConnector; vLLM-Ascend's
MooncakeConnectorV1 speaks the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import msgspec

from pymotor.coordinator.api.request_view import assemble
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode import EncodedMedia, encode_media
from pymotor.coordinator.flows.last_leg import answer
from pymotor.coordinator.flows.legs import Buffers, LegFailed, whole_leg
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.routing import Pair
from pymotor.coordinator.scheduling.target import Reservation, Target
from pymotor.fleet import KVDialect

_PREFILL_MEMBERS = (
    b'"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null},'
)
_ONE_TOKEN = b'"stream":false,"max_tokens":1,"min_tokens":1'
_PREFILL_WITHOUT = frozenset((
    "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "logprobs",
    "top_logprobs", "prompt_logprobs", "echo", "stop", "stop_token_ids", "include_stop_str_in_output",
    "return_token_ids", "use_beam_search", "kv_transfer_params", "suffix",
))  # fmt: skip
"""What would let prefill end by anything but length, or answer more than anybody reads."""


_DECODE_WITHOUT = frozenset(("kv_transfer_params",))
Result = TypeVar("Result")


class _PrefillReply(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_reply_decoder = msgspec.json.Decoder(_PrefillReply)


Finish = Callable[[Context, Target, Buffers, bytes, Reservation, "float | None"], Awaitable[Result]]
"""Runs decode: endpoint, body, leg id, prefill's reservation (which ends with the first content) and the
`monotonic()` time by which the request must have been sent."""


async def pull(context: Context, pair: Pair, finish: Finish[Result]) -> Result:
    """Send the request through a prefill and a decode endpoint of `pair`; `finish` runs decode and its result is the
    result. Raises `LegFailed`, `ApiError`."""
    services = context.services
    view = context.view
    prefill = services.choose(pair.prefills, context.avoid)
    decode = services.choose(pair.decodes, context.avoid)
    prefill_charge = Reservation(prefill, view.prompt_tokens, view.prompt_tokens)
    decode_charge = Reservation(decode, view.prompt_tokens + view.answer_tokens)
    try:
        media = await encode_media(context, pair.encoders, (prefill, decode)) if view.media else None
        leg_id = services.ids.next()
        reply = await whole_leg(context, "prefill", prefill, _prefill_body(context, pair, media), leg_id)
        fetch_by = monotonic() + pair.handoff_seconds / 2 if pair.handoff_seconds is not None else None
        prefill_charge.worked()
        body = _decode_body(context, media, _handed_over(pair, prefill, reply))
        return await finish(context, decode, body, leg_id, prefill_charge, fetch_by)
    finally:
        if prefill_charge.open:
            prefill_charge.end()
        decode_charge.end()


async def to_client(
    context: Context,
    decode: Target,
    body: Buffers,
    leg_id: bytes,
    prefill_charge: Reservation,
    fetch_by: float | None,
) -> None:
    """A `Finish` whose reply is the client's answer."""
    await answer(context, "decode", decode, body, leg_id, first_content=prefill_charge, send_by=fetch_by)


async def to_bytes(
    context: Context,
    decode: Target,
    body: Buffers,
    leg_id: bytes,
    prefill_charge: Reservation,
    fetch_by: float | None,
) -> bytes:
    """A `Finish` that returns the whole reply's body."""
    reply = await whole_leg(context, "decode", decode, body, leg_id, send_by=fetch_by)
    prefill_charge.end()
    return reply.body


def _prefill_body(context: Context, pair: Pair, media: EncodedMedia | None) -> Buffers:
    fields = context.view.fields
    if media is not None and context.services.settings.forward_media == "never":
        fields = media.fields_with_metadata()
    members = _ONE_TOKEN if pair.dialect is KVDialect.STORE else _PREFILL_MEMBERS + _ONE_TOKEN
    if "max_completion_tokens" in fields:
        members += b',"max_completion_tokens":1'
    return assemble(fields, members, _PREFILL_WITHOUT, context.view.size)


def _handed_over(pair: Pair, prefill: Target, reply: WholeReply) -> msgspec.Raw | None:
    """The parameters for decode in prefill's reply; None when it handed nothing over, which engines do for a
    prompt too short to be worth it: decode then computes the prompt itself."""
    if pair.dialect is KVDialect.STORE:
        return None
    try:
        params = _reply_decoder.decode(reply.body).kv_transfer_params
    except msgspec.MsgspecError as error:
        raise LegFailed("prefill", prefill, "protocol", "its reply is not a completion") from error
    return None if bytes(params) == b"null" else params


def _decode_body(context: Context, media: EncodedMedia | None, params: msgspec.Raw | None) -> Buffers:
    """Decode needs no media when it gets the KV cache of it. When it has to compute, or a store may have lost the
    cache, it does; metadata alone would then kill the engine."""
    view = context.view
    fields = view.fields
    if params is None:
        return view.body
    if media is not None and context.services.settings.forward_media != "always":
        fields = media.fields_with_metadata()
    return assemble(fields, b'"kv_transfer_params":' + bytes(params), _DECODE_WITHOUT, view.size)
