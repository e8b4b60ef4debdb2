"""A chat's messages without its large media: megabytes that were read once are not read again."""

from __future__ import annotations

from pymotor.coordinator.api.place import offset_in
from pymotor.coordinator.api.request_view import RequestView

_LARGE = 4096


def messages_without_media(view: RequestView) -> bytes | memoryview:
    """The JSON text of `messages`, with null where large media stood."""
    raw = view.fields["messages"]
    text = memoryview(raw)
    kept: list[bytes | memoryview] = []
    read = 0
    for item in view.media:
        at = offset_in(raw, item.source) if item.size > _LARGE else -1
        if at >= read:
            kept += [text[read:at], b"null"]
            read = at + item.size
    if not kept:
        return text
    kept.append(text[read:])
    return b"".join(kept)
