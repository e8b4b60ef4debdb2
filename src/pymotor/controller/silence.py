"""Who is not heard of, and whether that is their fault or the Controller's."""

from __future__ import annotations

from pymotor.controller.fleet_book import FleetBook
from pymotor.controller.groups import Group
from pymotor.controller.nodes import KnownNode
from pymotor.fleet import InstanceState


def note_silence(book: FleetBook, now: float) -> None:
    """Look for nodes that fell silent, and judge what that means."""
    fell = [node for node in book.nodes.values() if not node.silent and node.is_silent(now, book.settings)]
    for node in fell:
        node.silent = True
        group = book.groups.get(node.instance)
        book.say(now, "node_silent", _words(node, now), group, node.name)
        if group is not None and group.silent_since is None:
            group.silent_since, group.was_active = now, group.state is InstanceState.ACTIVE
    _judge(book, now)
    for name in dict.fromkeys(node.instance for node in fell):
        if name in book.groups:
            book.refresh(book.groups[name], now)


def note_heard(book: FleetBook, node: KnownNode, now: float) -> None:
    """A silent node has reported."""
    node.silent = False
    group = book.groups.get(node.instance)
    book.say(now, "node_heard", f"{node.name} is heard of again", group, node.name)
    if group is not None:
        _forget_silence(book, group)
        _judge(book, now)


def _words(node: KnownNode, now: float) -> str:
    if node.lost is not None:
        return f"{node.name} closed its connection and did not report again"
    return f"{node.name} has not reported for {now - node.heard:.0f} s"


def _forget_silence(book: FleetBook, group: Group) -> None:
    if not any(book.nodes[name].silent for name in group.members):
        group.silent_since, group.was_active, group.silence_ignored = None, False, False


def _judge(book: FleetBook, now: float) -> None:
    """More than half of all active instances at once: rather the Controller is cut off than all of them dead."""
    window = book.settings.node_timeout
    mute = [
        group
        for group in book.groups.values()
        if group.silent_since is not None
        and group.was_active
        and (group.silence_ignored or now - group.silent_since <= window)
    ]
    if not mute:
        return
    others = sum(group.state is InstanceState.ACTIVE for group in book.groups.values() if group.silent_since is None)
    ignored = [group for group in mute if group.silence_ignored]
    if len(mute) >= 2 and len(mute) > others:
        fresh = [group for group in mute if not group.silence_ignored]
        if not ignored:
            words = f"{len(mute)} of {len(mute) + others} active instances fell silent at once: their states are left"
            book.say(now, "controller_cut_off", f"{words}, since rather the Controller cannot be reached")
        for group in fresh:
            group.silence_ignored = True
            book.refresh(group, now)
    elif ignored:
        book.say(now, "controller_reached", "most instances are heard of again; the others have time to report")
        for group in ignored:
            for name in group.members:
                node = book.nodes[name]
                if node.silent:
                    # They may only be later than the rest: from now on they have as long as everybody.
                    node.silent, node.heard, node.lost = False, now, None
            _forget_silence(book, group)
            book.refresh(group, now)
