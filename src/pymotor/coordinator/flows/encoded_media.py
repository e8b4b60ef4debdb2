"""What each stage gets of a request whose media went to encoders first: media, metadata, parameters of the transfer.

| `forward_media` | the stage that reads embeddings | decode |
|---|---|---|
| `prefill` | media | metadata |
| `never` | metadata; media once a leg of the request has failed | metadata |
| `always` | media | media |

Media and metadata of one modality never mix in a request: engines refuse that. Where the path has no place for
metadata, media stay media.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pymotor.coordinator.api.media import MediaItem
from pymotor.coordinator.api.request_view import Fields, RequestView
from pymotor.coordinator.api.without_media import messages_without_media
from pymotor.coordinator.scheduling.encodings import Encoding, ItemKey

_messages_decoder = msgspec.json.Decoder(list[Fields])

PROCESSOR_FIELDS = ("mm_processor_kwargs", "media_io_kwargs")


class RequestEncodings:
    """What is known of a request's media from one try of it to the next."""

    __slots__ = ("doubted", "in_store", "keys")

    def __init__(self) -> None:
        self.in_store: list[Encoding | None] = []
        """Of the request's distinct items, as far as they are in a store: they need not be encoded again."""
        self.keys: set[ItemKey] = set()
        """Under which other requests find these encodings."""
        self.doubted = False
        """Whether a later leg has failed as one does whose embeddings are lost."""


class EncodedMedia:
    """The media of one try of a request: the fields and members each stage is to get."""

    __slots__ = ("_decode_with_media", "_passes", "_reader_with_media", "_results", "_view")

    def __init__(
        self,
        view: RequestView,
        results: Sequence[Encoding | None],
        *,
        passes: bool = False,
        reader_with_media: bool = True,
        decode_with_media: bool = True,
    ) -> None:
        """`results` are in the order of `view.media`; None for an item that no encoder took. `passes`: whether the
        stage that reads embeddings is told what the encoders said. The other two: who gets media in any case."""
        self._view = view
        self._results = results
        self._passes = passes
        self._reader_with_media = reader_with_media
        self._decode_with_media = decode_with_media

    def reader_fields(self) -> Fields:
        """The request's fields for the stage that reads embeddings.

        With media it encodes a lost item again; without, a lost item fails the request or kills a vLLM 0.32 engine.
        """
        return self._view.fields if self._reader_with_media else self.fields_with_metadata()

    def reader_members(self) -> bytes:
        """`ec_transfer_params` for the stage that reads embeddings, as a member of a JSON object; empty where they are
        in a store that both know.

        They are the encoders' own, merged, and for pushed embeddings the names of the pushes, as vLLM's
        ECMooncakeConnector looks for them.
        """
        if not self._passes:
            return b""
        found = [result for result in self._results if result is not None]
        params: dict[str, object] = {}
        for result in found:
            params.update(result.parameters)
        pushes = [_push(result) for result in found if result.transfer_id]
        if pushes:
            params["ec_items"] = pushes
        return b'"ec_transfer_params":' + msgspec.json.encode(params) if params else b""

    def decode_fields(self) -> Fields:
        """The request's fields for decode that gets the KV cache of the media."""
        return self._view.fields if self._decode_with_media else self.fields_with_metadata()

    def fields_with_metadata(self) -> Fields:
        """The request's fields with metadata in place of media, as far as that is possible.

        All items of a modality need metadata. With processor options an engine would hash the identifier together
        with them: they are left out, which is only right when no media is left.
        """
        view = self._view
        if not view.surface.takes_embeds:
            return view.fields
        lacking = {
            item.modality
            for item, result in zip(view.media, self._results, strict=True)
            if result is None or result.metadata is None
        }
        has_options = any(name in view.fields for name in PROCESSOR_FIELDS)
        if len(lacking) == len({item.modality for item in view.media}) or (lacking and has_options):
            return view.fields
        replaced: dict[int, dict[int, msgspec.Raw]] = {}
        for item, result in zip(view.media, self._results, strict=True):
            if item.modality not in lacking and result is not None and result.metadata is not None:
                replaced.setdefault(item.message, {})[item.position] = _embeds_part(item, result)
        fields = {name: raw for name, raw in view.fields.items() if name not in PROCESSOR_FIELDS or lacking}
        fields["messages"] = _with_parts(view, replaced)
        return fields


def _push(result: Encoding) -> dict[str, str]:
    if not result.identifier:
        # Without one the connector goes by the order of the items.
        return {"transfer_id": result.transfer_id}
    return {"mm_hash": result.identifier, "transfer_id": result.transfer_id}


def _embeds_part(item: MediaItem, result: Encoding) -> msgspec.Raw:
    kind = f"{item.modality}_embeds"
    return msgspec.Raw(msgspec.json.encode({"type": kind, kind: result.metadata, "uuid": result.identifier}))


def _with_parts(view: RequestView, replaced: dict[int, dict[int, msgspec.Raw]]) -> msgspec.Raw:
    messages = _messages_decoder.decode(messages_without_media(view))
    for index, content in view.contents.items():
        parts = replaced.get(index, {})
        contents = [parts.get(position, part) for position, part in enumerate(content)]
        messages[index]["content"] = msgspec.Raw(msgspec.json.encode(contents))
    return msgspec.Raw(msgspec.json.encode(messages))
