"""Prefill, then decode, which fetches the KV cache (`pull`) or finds it in a store both know (`store`).

What PyMotor's users know as CPCD: the Coordinator calls prefill, then decode. Prefill runs with one token to generate
and answers with `kv_transfer_params`, which decode gets unchanged. Protocol: vLLM's NixlConnector; vLLM-Ascend's
MooncakeConnectorV1 speaks the same, and its LLMDataDistCMgrConnector with `aborted_request` beside it.
"""

from __future__ import annotations

from time import monotonic

import msgspec

from pymotor.coordinator.flows.aborted import CONNECTORS
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.decode_leg import DECODE, decode_body, spare_prefill
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.flows.legs import whole_leg
from pymotor.coordinator.flows.prefill_leg import PREFILL, handed_over, prefill_body
from pymotor.coordinator.flows.reservations import reserve_decode, reserve_pair
from pymotor.coordinator.http.exchange import NO_CONNECTION
from pymotor.coordinator.routing import Pair
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import KVDialect

_PREFILL_PARAMS = (
    b'"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null'
)
_PREFILL_MEMBERS = _PREFILL_PARAMS + b"},"


async def pull(context: Context, pair: Pair, finish: Finish[Result]) -> Result:
    """Send the request through a prefill and a decode endpoint of `pair`; `finish` runs decode and its result is the
    result. Raises `LegFailed`, `ApiError`."""
    stored = pair.dialect is KVDialect.STORE
    tells_aborted = pair.connector in CONNECTORS
    leg_id = context.services.ids.next()
    unfetched = False
    prefill_charge, decode_charge = reserve_pair(context, pair.prefills, pair.decodes)
    prefill, decode = prefill_charge.target, decode_charge.target
    try:
        media = await encode_media(context, pair.encoders, (prefill, decode)) if context.view.media else None
        members = b"" if stored else _PREFILL_MEMBERS
        if tells_aborted:
            members = _with_aborted(context.services.aborted.take(prefill.endpoint_id))
        body = prefill_body(context, media, members)
        reply = await whole_leg(context, PREFILL, prefill, body, leg_id)
        unfetched = True
        if media is not None:
            context.note_fetched()
        fetch_by = monotonic() + pair.handoff_seconds / 2 if pair.handoff_seconds is not None else None
        prefill_charge.worked()
        params = None if stored else handed_over(prefill, reply)
        body = decode_body(context, media, None if params is None else b'"kv_transfer_params":' + params)
        while True:
            try:
                result = await finish(context, DECODE, decode_charge.target, body, leg_id, prefill_charge, fetch_by)
            except LegFailed as failure:
                spare_prefill(context, failure, prefill)
                # An endpoint that refused the connection has not fetched anything: another can, until `fetch_by`.
                decodes = context.services.closed.open_part(pair.decodes)
                if (
                    failure.reason not in NO_CONNECTION
                    or decodes is None
                    or not _another(context, decodes, failure.target)
                ):
                    raise
            else:
                unfetched = False
                return result
            decode_charge.end()
            decode_charge = reserve_decode(context, decodes)
    finally:
        if context.fetching is not None:
            context.note_fetched()
        if unfetched and tells_aborted:
            context.services.aborted.note(prefill.endpoint_id, leg_id)
        if prefill_charge.open:
            prefill_charge.end()
        if decode_charge.open:
            decode_charge.end()


def _with_aborted(request_ids: list[str]) -> bytes:
    return b'%b,"aborted_request":%b},' % (_PREFILL_PARAMS, msgspec.json.encode(request_ids))


def _another(context: Context, decodes: Group, refused: Target) -> bool:
    """Whether there is a decode endpoint that has not failed this request; `refused` has, from now on."""
    context.spare(refused.endpoint_id)
    return any(target.endpoint_id not in context.avoid for target in decodes.targets)
