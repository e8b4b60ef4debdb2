"""Prefill and decode at the same time, which find each other by an id that both are given (`paired`).

vLLM's MooncakeConnector joins the legs by `transfer_id`; decode is also told prefill's bootstrap server and the engine
id that this server names. SGLang joins them by `bootstrap_room`. Protocols: vLLM's `mooncake_connector.py`, SGLang's
`disaggregation`.
"""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.bootstraps import DEFAULT_PORT
from pymotor.coordinator.flows.context import Beside, Context
from pymotor.coordinator.flows.decode_leg import DECODE, decode_body, spare_prefill
from pymotor.coordinator.flows.encode import encode_media
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.flows.last_leg import Finish, Result
from pymotor.coordinator.flows.leg_failures import LegFailed, failed
from pymotor.coordinator.flows.legs import whole_leg
from pymotor.coordinator.flows.prefill_leg import PREFILL, prefill_body
from pymotor.coordinator.flows.reservations import reserve_pair
from pymotor.coordinator.flows.together import beside
from pymotor.coordinator.http.exchange import UpstreamError
from pymotor.coordinator.routing import Pair
from pymotor.coordinator.scheduling.target import Held, Reservation, Target

_PATHS_WITH_ROOMS = frozenset((b"/v1/chat/completions", b"/v1/completions"))
"""Whose requests SGLang lets have a `bootstrap_room`."""


class _Meeting(NamedTuple):
    """How two legs find each other: members of their bodies, as JSON text."""

    prefill: bytes
    decode: bytes
    headers: bytes
    """Header lines of prefill's leg."""


async def paired(context: Context, pair: Pair, finish: Finish[Result]) -> Result:
    """Send the request to a prefill and a decode endpoint of `pair`; `finish` runs decode and its result is the
    result. Raises `LegFailed`, `ApiError`."""
    services = context.services
    if pair.joins_by_room and context.view.surface.path not in _PATHS_WITH_ROOMS:
        raise ApiError(
            501,
            f"{context.label} cannot be answered by SGLang engines for prefill and decode; use /v1/chat/completions",
            code="not_supported",
        )
    prefill_charge, decode_charge = reserve_pair(context, pair.prefills, pair.decodes)
    prefill, decode = prefill_charge.target, decode_charge.target
    bootstrap = _bootstrap(prefill)
    try:
        media = await encode_media(context, pair.encoders, (prefill, decode)) if context.view.media else None
        leg_id = services.ids.next()
        if pair.joins_by_room:
            meeting = _room(context, bootstrap)
        else:
            meeting = await _transfer(context, prefill, bootstrap, leg_id)
        body = decode_body(context, media, meeting.decode)
        context.beside = Beside(PREFILL, prefill, monotonic())
        return await beside(
            services.loop,
            finish(context, DECODE, decode, body, leg_id, prefill_charge, None),
            _prefill(context, prefill_charge, media, meeting, leg_id),
            lambda: context.committed,
        )
    except LegFailed as failure:
        services.bootstraps.forget(bootstrap)
        spare_prefill(context, failure, prefill)
        raise
    finally:
        context.beside = None
        if context.fetching is not None:
            context.note_fetched()
        if prefill_charge.open:
            prefill_charge.end()
        decode_charge.end()


async def _prefill(
    context: Context, charge: Reservation, media: EncodedMedia | None, meeting: _Meeting, leg_id: bytes
) -> None:
    """Prefill's leg. Its KV cache is held until decode has content, which ends the charge."""
    body = prefill_body(context, media, meeting.prefill + b",")
    held = None
    if context.view.prompts:
        # Decode's first content, with which the charge ends, says nothing of the other prompts.
        held = Held()
        held.add(charge.target)
    try:
        await whole_leg(context, PREFILL, charge.target, body, leg_id, headers=meeting.headers)
    finally:
        if held is not None:
            held.end()
    context.note_fetched()
    charge.worked()


def _bootstrap(prefill: Target) -> str:
    """Prefill's bootstrap server, by default at the port that engines choose themselves."""
    told = prefill.instance.bootstrap_of(prefill.endpoint_id)
    if told:
        return told
    host = urlsplit(prefill.url).hostname or ""
    return f"http://[{host}]:{DEFAULT_PORT}" if ":" in host else f"http://{host}:{DEFAULT_PORT}"


async def _transfer(context: Context, prefill: Target, bootstrap: str, leg_id: bytes) -> _Meeting:
    """By vLLM's MooncakeConnector. Raises `LegFailed` when prefill's bootstrap server does not know its engine."""
    try:
        rank = await context.services.bootstraps.rank(bootstrap)
    except UpstreamError as error:
        raise failed(context, PREFILL, prefill, error) from error
    sent = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": f"xfer-{leg_id.decode()}"}
    fetched = {
        "do_remote_decode": False,
        "do_remote_prefill": True,
        "remote_bootstrap_addr": bootstrap,
        "remote_engine_id": rank.engine_id,
        "transfer_id": sent["transfer_id"],
    }
    return _Meeting(
        b'"kv_transfer_params":' + msgspec.json.encode(sent),
        b'"kv_transfer_params":' + msgspec.json.encode(fetched),
        b"" if rank.number is None else b"X-data-parallel-rank: %d\r\n" % rank.number,
    )


def _room(context: Context, bootstrap: str) -> _Meeting:
    """By SGLang: the same members for both; lists for several prompts."""
    address = urlsplit(bootstrap)
    host: object = address.hostname or ""
    port: object = address.port or DEFAULT_PORT
    # 63 of the random bits that request ids are made of: SGLang keeps a room in a signed integer.
    rooms = [int(context.services.ids.next()[:16], 16) >> 1 for _ in range(len(context.view.prompts) or 1)]
    room: object = rooms[0]
    if context.view.prompts:
        host, port, room = [host] * len(rooms), [port] * len(rooms), rooms
    fields = {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}
    members = msgspec.json.encode(fields)[1:-1]
    return _Meeting(members, members, b"")
