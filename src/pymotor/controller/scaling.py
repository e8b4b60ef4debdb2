"""How many instances of each role are wanted, and what is done about those that are too many."""

from __future__ import annotations

from pymotor.controller.draining import begin_drain, end_drain
from pymotor.controller.drains import Drain, Purpose
from pymotor.controller.fleet_book import FleetBook
from pymotor.fleet import NodeOrder, Role


def learn_targets(book: FleetBook, held: NodeOrder, now: float) -> None:
    """Take targets over that a former leader was told."""
    if held.targets_revision > book.targets_revision:
        book.targets, book.targets_revision = dict(held.targets), held.targets_revision
        book.say(now, "targets_learnt", f"a former leader was asked for {_words(book.targets)}")
        book.order_all()


def set_target(book: FleetBook, role: Role, to: int, now: float) -> None:
    """Somebody wants so many instances of the role."""
    book.targets = {**book.targets, role.value: to}
    book.targets_revision += 1
    book.say(now, "target_set", f"{to} instances of {role.value} are wanted")
    book.order_all()
    keep_targets(book, now)


def keep_targets(book: FleetBook, now: float) -> None:
    """End the newest instances of roles that have too many; keep those that were to go and are wanted again."""
    for role, target in book.targets.items():
        groups = book.of_role(Role(role))
        for group in groups[target:][::-1]:
            drain = Drain(Purpose.SCALE_IN, f"{target} are wanted", now, book.settings.drain_limit)
            begin_drain(book, group, drain, now)
        lacking = target - len(groups)
        going = [
            group
            for group in book.groups.values()
            if group.role == role
            and not group.ending
            and group.drain is not None
            and group.drain.purpose is Purpose.SCALE_IN
        ]
        for group in sorted(going, key=lambda group: group.number)[: max(0, lacking)]:
            end_drain(book, group, now, f"{target} instances are wanted now")


def _words(targets: dict[str, int]) -> str:
    return ", ".join(f"{number} of {role}" for role, number in sorted(targets.items())) or "no other numbers"
