"""One device table of an instance from those of its nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence


class RanktableError(ValueError):
    """A node's device table cannot be joined with the others; the message says why."""


def merged_ranktable(tables: Sequence[str]) -> str:
    """The tables (JSON text, in the order of node ranks) as one, ranks counted through; empty where nobody sent one.

    Raises `RanktableError` when only some nodes sent one, or one is no table.
    """
    if not any(tables):
        return ""
    if not all(tables):
        raise RanktableError("some of its nodes sent no ranktable")
    if len(tables) == 1:
        return tables[0]
    servers: list[dict[str, object]] = []
    rank = 0
    try:
        whole = json.loads(tables[0])
        for text in tables:
            for server in json.loads(text)["server_list"]:
                devices = [{**device, "rank_id": str(rank + place)} for place, device in enumerate(server["device"])]
                rank += len(devices)
                servers.append({**server, "device": devices})
        return json.dumps({**whole, "server_count": str(len(servers)), "server_list": servers})
    except (ValueError, KeyError, TypeError) as error:
        raise RanktableError(f"a node's ranktable cannot be read: {error!r}") from error
