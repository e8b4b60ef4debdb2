"""Media items to their encoders, each a leg of its own, in parallel, equal items once.

An encoder answers with the identifier that it computed from the item's content and with metadata that lets later
stages do without the media. Which stage gets media and which metadata is `forward_media`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.media import MediaItem, check_source
from pymotor.coordinator.api.request_view import Fields, RequestView, content_parts, message_fields
from pymotor.coordinator.flows.context import Context, Encoded
from pymotor.coordinator.flows.legs import LegFailed, whole_leg
from pymotor.coordinator.flows.together import together
from pymotor.coordinator.routing import Encoders
from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN
from pymotor.coordinator.scheduling.target import Reservation, Target

ENCODE = "encode"
"""The legs' name; what they brought stays good when a later leg is tried again."""
_CHAT_PATH = b"/v1/chat/completions"
_PROCESSOR_FIELDS = ("mm_processor_kwargs", "media_io_kwargs")


class _Item(msgspec.Struct):
    metadata: dict[str, msgspec.Raw] | None = None


class _EncodeReply(msgspec.Struct):
    ec_transfer_params: dict[str, _Item] | None = None


_reply_decoder = msgspec.json.Decoder(_EncodeReply)


class EncodedMedia:
    """The media of one request after the encoders have run: the contents each stage is to get."""

    __slots__ = ("_results", "_view")

    def __init__(self, view: RequestView, results: Sequence[Encoded | None]) -> None:
        """`results` are in the order of `view.media`; None for an item that no encoder took."""
        self._view = view
        self._results = results

    def fields_with_metadata(self) -> Fields:
        """The request's fields with metadata in place of media, as far as that is possible.

        Media and metadata of one modality never mix in a request (engines refuse that), so all items of a
        modality need metadata. With processor options an engine would hash the identifier together with them:
        they are left out, which is only right when no media is left.
        """
        view = self._view
        lacking = {
            item.modality
            for item, result in zip(view.media, self._results, strict=True)
            if result is None or result.metadata is None
        }
        has_options = any(name in view.fields for name in _PROCESSOR_FIELDS)
        if len(lacking) == len({item.modality for item in view.media}) or (lacking and has_options):
            return view.fields
        replaced: dict[int, dict[int, msgspec.Raw]] = {}
        for item, result in zip(view.media, self._results, strict=True):
            if item.modality not in lacking and result is not None and result.metadata is not None:
                replaced.setdefault(item.message, {})[item.position] = _embeds_part(item, result)
        fields = {name: raw for name, raw in view.fields.items() if name not in _PROCESSOR_FIELDS or lacking}
        fields["messages"] = _with_parts(view, replaced)
        return fields


def _embeds_part(item: MediaItem, result: Encoded) -> msgspec.Raw:
    kind = f"{item.modality}_embeds"
    return msgspec.Raw(msgspec.json.encode({"type": kind, kind: result.metadata, "uuid": result.identifier}))


def _with_parts(view: RequestView, replaced: dict[int, dict[int, msgspec.Raw]]) -> msgspec.Raw:
    messages = message_fields(view)
    for index, parts in replaced.items():
        contents = [
            parts.get(position, part) for position, part in enumerate(content_parts(messages[index]["content"]))
        ]
        messages[index]["content"] = msgspec.Raw(msgspec.json.encode(contents))
    return msgspec.Raw(msgspec.json.encode(messages))


async def encode_media(context: Context, encoders: Encoders | None, consumers: Sequence[Target]) -> EncodedMedia:
    """Have the request's media encoded for the `consumers`, the targets that will read media or embeddings.

    Without encoders every item stays media. What was encoded once for a request is not encoded again, neither when
    a later leg is tried again nor for the parts of a request that is several. Raises `ApiError`: 400 for a source
    that may not be used, 502 when an item could not be encoded and the fallback is `fail`.
    """
    view = context.view
    for consumer in consumers:
        for item in view.media:
            check_source(item, consumer.instance.allowed_local_media_path)
    if encoders is None:
        return EncodedMedia(view, [None] * len(view.media))
    if context.encoded is None or None in context.encoded:
        context.encoded = await _encode(context, encoders)
    return EncodedMedia(view, context.encoded)


async def _encode(context: Context, encoders: Encoders) -> list[Encoded | None]:
    """What the encoders say of each item, in the order of `view.media`; equal items are encoded once."""
    view = context.view
    distinct: list[MediaItem] = []
    place: list[int] = []
    for item in view.media:
        same = next((index for index, other in enumerate(distinct) if other.same_as(item)), None)
        if same is None:
            same = len(distinct)
            distinct.append(item)
        else:
            context.services.instruments.media_items.child("shared").value += 1
        place.append(same)
    if len(distinct) == 1:
        results = [await _encode_item(context, encoders, distinct[0])]
    else:
        results = await together(context.services.loop, [_encode_item(context, encoders, item) for item in distinct])
    return [results[index] for index in place]


async def _encode_item(context: Context, encoders: Encoders, item: MediaItem) -> Encoded | None:
    """One item's encoding; a second encoder is tried when the first fails. None: the item goes on as media."""
    services = context.services
    buffers = [_encode_body(context.view, item)]
    excluded: set[int] = set()
    failure: LegFailed | None = None
    while len(excluded) < min(2, len(encoders.group)):
        index = encoders.choice.choose(item.key, item.tokens * TENTHS_PER_ACTIVE_TOKEN, frozenset(excluded))
        target = encoders.group.targets[index]
        check_source(item, target.instance.allowed_local_media_path)
        reservation = Reservation(target, item.tokens)
        try:
            reply = await whole_leg(context, ENCODE, target, buffers, services.ids.next(), path=_CHAT_PATH)
        except LegFailed as error:
            failure = error
            excluded.add(index)
            if error.clients_fault:
                raise
            continue
        finally:
            reservation.end()
        services.instruments.media_items.child("encoded").value += 1
        return _read_reply(reply.body)
    if services.settings.encode_fallback == "fail" and failure is not None:
        raise ApiError(502, f"a media item could not be encoded: {failure}", code="encode_failed") from failure
    services.instruments.media_items.child("inline").value += 1
    return None


def _encode_body(view: RequestView, item: MediaItem) -> bytes:
    fields: dict[str, object] = {
        "model": view.fields["model"],
        "messages": [{"role": "user", "content": [item.part]}],
        "max_tokens": 1,
        "stream": False,
    }
    for name in _PROCESSOR_FIELDS:
        if name in view.fields:
            fields[name] = view.fields[name]
    return msgspec.json.encode(fields)


def _read_reply(body: bytes) -> Encoded | None:
    """The identifier and metadata in an encoder's reply; None from engines before vLLM 0.32, which name neither."""
    try:
        items = _reply_decoder.decode(body).ec_transfer_params
    except msgspec.MsgspecError:
        return None
    if not items or len(items) != 1:
        return None
    identifier, item = next(iter(items.items()))
    metadata = msgspec.Raw(msgspec.json.encode(item.metadata)) if item.metadata else None
    return Encoded(identifier, metadata)
