"""A parser of server-sent events that does what the HTML standard says, section 9.2.6, and nothing else.

What PyMotor relays, cuts and reads is compared with it. It is written for reading; it takes whole streams only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """What a browser would dispatch."""

    kind: str
    data: str
    last_id: str


def events_in(stream: bytes) -> list[Event]:
    """The events of a whole stream; what follows the last empty line is none."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    found: list[Event] = []
    kind, data, last_id = "", "", ""
    *lines, _ = _LINE_END.split(text)
    for line in lines:
        if not line:
            if data:
                found.append(Event(kind or "message", data.removesuffix("\n"), last_id))
            kind, data = "", ""
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ") if colon else ""
        if field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return found
