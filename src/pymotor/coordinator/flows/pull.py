"""Prefill, then decode, which fetches the KV cache (`pull`) or finds it in a store both know (`store`).

What PyMotor's users know as CPCD: the Coordinator calls prefill, then decode. Prefill runs with one token to generate
and answers with `kv_transfer_params`, which decode gets unchanged. Protocol: vLLM's NixlConnector; vLLM-Ascend's
MooncakeConnectorV1 speaks the same.
"""

from __future__ import annotations

from time import monotonic

from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.decode_leg import DECODE, decode_body
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.legs import LegFailed, whole_leg
from pymotor.coordinator.flows.prefill_leg import PREFILL, handed_over, prefill_body
from pymotor.coordinator.flows.reservations import reserve_decode, reserve_prefill
from pymotor.coordinator.routing import Pair
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import KVDialect

_PREFILL_MEMBERS = (
    b'"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null},'
)


async def pull(context: Context, pair: Pair, finish: Finish[Result]) -> Result:
    """Send the request through a prefill and a decode endpoint of `pair`; `finish` runs decode and its result is the
    result. Raises `LegFailed`, `ApiError`."""
    stored = pair.dialect is KVDialect.STORE
    prefill_charge = reserve_prefill(context, pair.prefills)
    decode_charge = reserve_decode(context, pair.decodes)
    prefill, decode = prefill_charge.target, decode_charge.target
    try:
        media = await encode_media(context, pair.encoders, (prefill, decode)) if context.view.media else None
        leg_id = context.services.ids.next()
        body = prefill_body(context, media, b"" if stored else _PREFILL_MEMBERS)
        reply = await whole_leg(context, PREFILL, prefill, body, leg_id)
        fetch_by = monotonic() + pair.handoff_seconds / 2 if pair.handoff_seconds is not None else None
        prefill_charge.worked()
        params = None if stored else handed_over(prefill, reply)
        body = decode_body(context, media, None if params is None else b'"kv_transfer_params":' + params)
        while True:
            try:
                return await finish(context, DECODE, decode_charge.target, body, leg_id, prefill_charge, fetch_by)
            except LegFailed as failure:
                # An endpoint that refused the connection has not fetched anything: another can, until `fetch_by`.
                if failure.reason != "connect" or not _another(context, pair.decodes, failure.target):
                    raise
            decode_charge.end()
            decode_charge = reserve_decode(context, pair.decodes)
    finally:
        if prefill_charge.open:
            prefill_charge.end()
        if decode_charge.open:
            decode_charge.end()


def _another(context: Context, decodes: Group, refused: Target) -> bool:
    """Whether there is a decode endpoint that has not failed this request; `refused` has, from now on."""
    context.avoid |= {refused.endpoint_id}
    return any(target.endpoint_id not in context.avoid for target in decodes.targets)
