"""Drains begin, end, and what follows."""

from __future__ import annotations

from dataclasses import replace

from pymotor.controller.drains import Drain, Purpose, what_runs
from pymotor.controller.fleet_book import FleetBook
from pymotor.controller.groups import Group


def begin_drain(book: FleetBook, group: Group, drain: Drain, now: float) -> None:
    """No new requests for the instance; one that drains already gets the new purpose and limit."""
    former = group.drain
    if former is not None:
        # Coordinators that know of the former know enough: the instance takes nothing new.
        drain = replace(drain, since=former.since, version=former.version)
    group.drain = drain
    book.say(now, "drain_begins", f"{drain.reason}; running requests have {drain.limit:g} s", group)
    book.refresh(group, now)
    check_drain(book, group, now)


def end_drain(book: FleetBook, group: Group, now: float, why: str) -> None:
    """The instance takes requests again; it must not be ending."""
    group.drain = None
    book.say(now, "drain_ends", why, group)
    book.refresh(group, now)


def check_drains(book: FleetBook, now: float) -> None:
    """Go on with every drain that has come to its end."""
    for group in [group for group in book.groups.values() if group.drain is not None]:
        check_drain(book, group, now)


def check_drain(book: FleetBook, group: Group, now: float) -> None:
    """Go on with the instance's drain, where it has one and nothing runs any more or its limit has passed."""
    drain = group.drain
    if drain is None or book.listening:
        return
    if group.ending:
        if all(book.nodes[name].idle for name in group.members):
            book.dissolve(group, now, f"{drain.reason}: drained and ended")
        return
    if drain.done:
        return
    left = still_running(book, group, now)
    if left and now - drain.since < drain.limit:
        return
    group.drain = replace(drain, done=True)
    book.say(now, "drained", f"not finished after {drain.limit:g} s: {left}" if left else "nothing runs", group)
    _follow_up(book, group, drain, now)


def still_running(book: FleetBook, group: Group, now: float) -> str:
    """What a drain waits for, in words; empty: nothing."""
    assert group.drain is not None
    alive = (known for known in book.coordinators.values() if now - known.heard < book.settings.coordinator_timeout)
    endpoints = [endpoint.id for endpoint in group.public.endpoints] if group.public is not None else []
    members = [book.nodes[name] for name in group.members]
    return what_runs(group.drain, endpoints, members, alive, book.epoch)


def _follow_up(book: FleetBook, group: Group, drain: Drain, now: float) -> None:
    if drain.purpose is Purpose.STAY:
        return
    if drain.purpose is Purpose.RESTART:
        group.drain = None
        book.raise_generation(group, now, drain.reason)
        return
    group.ending = True
    for name in group.members:
        node = book.nodes[name]
        node.released = node.released or drain.purpose.releases
        if drain.role is not None:
            node.assigned_role = drain.role if drain.role is not node.report.role else None
    book.refresh(group, now)
    check_drain(book, group, now)
