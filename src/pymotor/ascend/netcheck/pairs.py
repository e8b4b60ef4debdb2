"""Which device pings which: all of other nodes, or a few of them so that the number grows only with the devices."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

PingMode = Literal["all", "sample", "none"]


class Peer(NamedTuple):
    """A device of a node by its address; `device` is None where its number is unknown."""

    node: str
    device: int | None
    address: str


def choose_pairs(
    mode: PingMode, node: str, devices: Sequence[int], others: Mapping[str, Sequence[Peer]]
) -> list[tuple[int, Peer]]:
    """The pings of one node's devices to those of `others`, each of which knows only its own node's part.

    `sample`: two devices of the next node (names in order, so that all nodes form a ring), chosen such that each device
    is pinged by two, and one more anywhere, always the same one for the same names.
    """
    others = {name: list(peers) for name, peers in sorted(others.items()) if peers and name != node}
    anywhere = [peer for peers in others.values() for peer in peers]
    if mode == "none" or not anywhere:
        return []
    if mode == "all":
        return [(device, peer) for device in devices for peer in anywhere]
    after = [name for name in others if name > node]
    following = others[after[0] if after else next(iter(others))]
    pairs: list[tuple[int, Peer]] = []
    for place, device in enumerate(devices):
        # Where the next node has more devices than this one, the rest of them have their turn too.
        places = range(place, max(len(following), place + 1), len(devices))
        across = [following[(at + turn) % len(following)] for at in places for turn in (0, len(following) // 2)]
        chosen = list(dict.fromkeys(across))
        rest = [peer for peer in anywhere if peer not in chosen]
        if rest:
            chosen.append(random.Random(f"{node}/{device}").choice(rest))
        pairs += [(device, peer) for peer in chosen]
    return pairs
