"""Media items to their encoders, in parallel, before the stage that reads the embeddings.

| dialect | an item is encoded | another request's encoding serves |
|---|---|---|
| store | once for a request, however often later legs are tried | while it is under way, and for `reuse_seconds` |
| pull | for each consumer, again when another one is tried | while it is under way for the same consumer |
| push | for each consumer, again when another one is tried | never: the consumer drops a push with its request |

Equal items of one request are one item. What is read from where an address points, and not from the request itself,
may be another thing a moment later: such an item is not known to be in a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from pymotor.coordinator.api.errors import ApiError, ServiceUnavailable
from pymotor.coordinator.api.media import MediaItem, check_source
from pymotor.coordinator.api.media_meaning import plain
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.encode_leg import ENCODE, EncodeLegs
from pymotor.coordinator.flows.encoded_media import PROCESSOR_FIELDS, EncodedMedia, RequestEncodings
from pymotor.coordinator.flows.leg_failures import CLOSED, LegFailed
from pymotor.coordinator.flows.together import together
from pymotor.coordinator.http.exchange import NO_CONNECTION
from pymotor.coordinator.routing import Encoders
from pymotor.coordinator.scheduling.encodings import Encoding, ItemKey
from pymotor.coordinator.scheduling.target import Target
from pymotor.coordinator.settings import Settings
from pymotor.fleet import ECDialect

_AT_ONCE = 64
"""Items of one request that are with encoders at the same time."""
_HARMLESS = NO_CONNECTION | {"busy", "expired"}


async def encode_media(context: Context, encoders: Encoders | None, consumers: Sequence[Target]) -> EncodedMedia:
    """Have the request's media encoded for the `consumers`, the targets that will read media or embeddings; the first
    of them reads the embeddings.

    Without encoders every item stays media. Without consumers, which are not chosen yet, only what does not depend on
    them is done: what is in a store then is not encoded again for the parts of a request that is several. Raises
    `ApiError`: 400 for a source that may not be used, 502 when an item could not be encoded and must be, 503 when
    there is no encoder and there must be one; `LegFailed` when an encoder says that the request is wrong.
    """
    view = context.view
    for consumer in consumers:
        for item in view.media:
            check_source(item, consumer.instance.allowed_local_media_path)
    reader = consumers[0] if consumers else None
    if encoders is None:
        if reader is not None:
            _without_encoders(context, reader)
        return EncodedMedia(view, [None] * len(view.media))
    state = context.encoded
    if state is None:
        state = context.encoded = RequestEncodings()
    dialect = _dialect(encoders)
    distinct, place = distinct_media(view.media)
    if dialect is ECDialect.STORE:
        results = state.in_store = await _encode(context, encoders, distinct, state.in_store, reader)
    elif reader is None:
        results = [None] * len(distinct)
    else:
        results = await _encode(context, encoders, distinct, [], reader)
    forward_media = context.settings.forward_media
    return EncodedMedia(
        view,
        [results[index] for index in place],
        passes=dialect is not ECDialect.STORE,
        reader_with_media=forward_media != "never" or state.doubted,
        decode_with_media=forward_media == "always",
    )


def doubt_encodings(context: Context, failure: LegFailed) -> None:
    """A leg of the request has failed. If it may have lacked embeddings, no other request shall rely on them, and the
    request's next try carries its media."""
    state = context.encoded
    if state is None or failure.leg == ENCODE or failure.clients_fault or failure.reason in _HARMLESS:
        return
    state.doubted = True
    context.services.encodings.forget(state.keys)


def _dialect(encoders: Encoders) -> ECDialect:
    transfer = encoders.group.targets[0].instance.ec
    return transfer.dialect if transfer is not None else ECDialect.STORE


def _without_encoders(context: Context, reader: Target) -> None:
    """The media go on as they are, if the `reader` can encode them and the fallback allows it."""
    transfer = reader.instance.ec
    if transfer is None or not transfer.consumes:
        return
    if transfer.dialect is ECDialect.PUSH:
        name = reader.instance.name
        raise ServiceUnavailable(f"no encoder is up, and {name} waits for embeddings instead of encoding")
    services = context.services
    if context.settings.encode_fallback == "fail":
        raise ServiceUnavailable("no encoder is up to encode the request's media")
    services.instruments.media_items.child("inline").add(len(distinct_media(context.view.media)[0]))


def distinct_media(media: Sequence[MediaItem]) -> tuple[list[MediaItem], list[int]]:
    """The items that differ, and for each item which of these it equals."""
    distinct: list[MediaItem] = []
    place: list[int] = []
    by_key: dict[int, list[int]] = {}
    for item in media:
        alike = by_key.setdefault(item.key, [])
        same = next((index for index in alike if distinct[index].same_as(item)), len(distinct))
        if same == len(distinct):
            distinct.append(item)
            alike.append(same)
        place.append(same)
    return distinct, place


async def _encode(
    context: Context,
    encoders: Encoders,
    distinct: Sequence[MediaItem],
    found: Sequence[Encoding | None],
    reader: Target | None,
) -> list[Encoding | None]:
    """What the encoders say of each item; `found` is what they said before, None or nothing where they did not."""
    results = [*found] or [None] * len(distinct)
    missing = [index for index, result in enumerate(results) if result is None]
    if not found:
        shared = len(context.view.media) - len(distinct)
        context.services.instruments.media_items.child("shared").add(shared)
    if len(missing) == 1:
        (index,) = missing
        results[index] = await _encode_or_inline(context, encoders, distinct[index], reader)
        return results
    left = iter(missing)

    async def one_after_another() -> None:
        for index in left:
            results[index] = await _encode_or_inline(context, encoders, distinct[index], reader)

    await together(context.services.loop, [one_after_another() for _ in range(min(len(missing), _AT_ONCE))])
    return results


async def _encode_or_inline(
    context: Context, encoders: Encoders, item: MediaItem, reader: Target | None
) -> Encoding | None:
    """One item's encoding; None when it goes on as media."""
    services = context.services
    try:
        return await _encode_item(context, encoders, item, reader)
    except LegFailed as failure:
        if failure.clients_fault or failure.reason == CLOSED:
            # The fleet has changed: the request's next try goes by what there is now.
            raise
        waits = _dialect(encoders) is ECDialect.PUSH
        if waits or context.settings.encode_fallback == "fail":
            where = f"{failure.leg} on {failure.target.instance.name}"
            message = f"a media item could not be encoded: {where} failed ({failure.reason})"
            raise ApiError(502, message, code="encode_failed") from failure
    services.instruments.media_items.child("inline").add()
    return None


async def _encode_item(context: Context, encoders: Encoders, item: MediaItem, reader: Target | None) -> Encoding:
    """One item's encoding, whose encoder is held until the reader has it. Raises `LegFailed`, `ApiError`."""
    found = await _encoding_of(context, encoders, item, reader)
    placement = context.services.placement
    if placement is not None and found.identifier:
        placement.identified(item, found.identifier)
    if found.held_at is not None:
        context.awaits_fetch(found.held_at)
    return found


async def _encoding_of(context: Context, encoders: Encoders, item: MediaItem, reader: Target | None) -> Encoding:
    """One item's encoding, by a leg of its own or by another request's. Raises `LegFailed`, `ApiError`."""
    services = context.services
    outcomes = services.instruments.media_items
    dialect = _dialect(encoders)
    if dialect is ECDialect.PUSH and reader is not None:
        encoding = await EncodeLegs(context, encoders, item, _push_address(reader)).run()
        outcomes.child("encoded").add()
        return encoding
    key = item_key(context.view, _authorization(context), encoders, item, reader)
    encodings = services.encodings
    reusable = may_be_in_store(encoders, item, context.settings)
    if context.encoded is not None:
        context.encoded.keys.add(key)
    known = encodings.known(key, item.meaning) if reusable else None
    if known is not None:
        outcomes.child("reused").add()
        return known
    since = monotonic()
    while True:
        leg = encodings.underway(key, item.meaning)
        joined = leg is not None
        if leg is None:
            work = EncodeLegs(context, encoders, item, stored=dialect is ECDialect.STORE).run()
            leg = encodings.start(key, item.meaning, work, until=context.whole_by, reusable=reusable)
        try:
            encoding = await encodings.wait(leg)
        except LegFailed:
            if joined and leg.until <= monotonic() < context.whole_by:
                # What is over is the time of the request that began it.
                continue
            raise
        outcomes.child("joined" if joined else "encoded").add()
        if joined:
            context.legs.append((ENCODE, encoding.encoder, (monotonic() - since) * 1000))
            if context.trail is not None:
                shared = context.trail.begin_wait(ENCODE, since)
                shared.instance = encoding.encoder
                shared.end()
        return encoding


def may_be_in_store(encoders: Encoders, item: MediaItem, settings: Settings) -> bool:
    """Whether an item that was encoded a moment ago is not encoded again."""
    return _dialect(encoders) is ECDialect.STORE and _in_request(item) and settings.forward_media != "never"


def _in_request(item: MediaItem) -> bool:
    """Whether the item itself is in the request, and not only where it can be had."""
    return item.url is None or item.url.startswith(b"data:")


def item_key(
    view: RequestView, authorization: bytes, encoders: Encoders, item: MediaItem, reader: Target | None = None
) -> ItemKey:
    """What an encoding of the item serves; `authorization`: what the encoder lets the client in by, if it is told."""
    transfer = encoders.group.targets[0].instance.ec
    store = transfer.store if transfer is not None else None
    fields = view.fields
    return ItemKey(
        scope=store or (reader.endpoint_id if reader is not None else ""),
        model=view.model.encode("utf-8", "surrogatepass"),
        options=(*(bytes(plain(fields[name])) if name in fields else b"" for name in PROCESSOR_FIELDS), authorization),
        kind=item.kind,
        digest=item.key,
    )


def _authorization(context: Context) -> bytes:
    """What the encoder lets the client in by: what it refuses one client is not refused to others."""
    if not context.settings.forward_authorization:
        return b""
    return context.request.headers.get(b"authorization", b"")


def _push_address(reader: Target) -> str:
    address = reader.instance.ec_address_of(reader.endpoint_id)
    if not address:
        raise ApiError(
            502,
            f"{reader.instance.name} has no address that embeddings can be pushed to; "
            "its ec_transfer_config needs ec_ip and ec_port",
            code="encode_failed",
        )
    return address
