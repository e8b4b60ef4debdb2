"""How many instances of each role are wanted, and what is done about those that are too many."""

from __future__ import annotations

from pymotor.controller.draining import begin_drain, end_drain
from pymotor.controller.drains import Drain, Purpose
from pymotor.controller.fleet_book import FleetBook
from pymotor.controller.groups import Group
from pymotor.fleet import InstanceState, NodeOrder, Role


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


def move_target(book: FleetBook, role: Role, gained: Role, now: float) -> None:
    """Somebody wants one instance less of a role and one more of another, where numbers are wanted at all."""
    moved = dict(book.targets)
    for one, more in ((role, -1), (gained, 1)):
        wanted = book.targets.get(one.value, book.settings.wanted.get(one))
        if wanted is not None:
            moved[one.value] = max(0, wanted + more)
    if moved != book.targets:
        book.targets = moved
        book.targets_revision += 1
        book.say(now, "target_set", f"{_words(moved)} are wanted")
        book.order_all()


def keep_targets(book: FleetBook, now: float) -> None:
    """End instances of roles that have too many; keep those that were to go and are wanted again.

    Those that are out count for neither. Nodes that were borrowed from another role go back to it, once as many as are
    wanted serve beside them; others are released: first those that do not serve, then the newest.
    """
    for name, target in book.targets.items():
        role = Role(name)
        standing = book.standing(role)
        surplus = len(standing) - target
        for group in _first_to_go(book, standing)[: max(0, surplus)]:
            home = _home(book, group)
            if home is None:
                drain = Drain(Purpose.SCALE_IN, f"{target} are wanted", now, book.settings.drain_limit)
            elif _serving(book, role, group) >= target:
                why = f"{target} of {role.value} are wanted and serve"
                drain = Drain(Purpose.SWITCH, why, now, book.settings.drain_limit, role=home)
            else:
                continue
            begin_drain(book, group, drain, now)
        going = [
            group
            for group in book.groups.values()
            if group.role is role
            and not group.ending
            and not group.out(book.nodes)
            and group.drain is not None
            and group.drain.purpose is Purpose.SCALE_IN
        ]
        for group in sorted(going, key=lambda group: group.number)[: max(0, -surplus)]:
            end_drain(book, group, now, f"{target} instances are wanted now")


def _first_to_go(book: FleetBook, groups: list[Group]) -> list[Group]:
    def place(group: Group) -> tuple[bool, bool, int]:
        return _home(book, group) is None, group.state is InstanceState.ACTIVE, -group.number

    return sorted(groups, key=place)


def _home(book: FleetBook, group: Group) -> Role | None:
    """What all its nodes were set up for, where that is another role than they play."""
    roles = {book.nodes[name].report.role for name in group.members}
    return roles.pop() if len(roles) == 1 and group.role not in roles else None


def _serving(book: FleetBook, role: Role, but: Group) -> int:
    return sum(group.state is InstanceState.ACTIVE for group in book.of_role(role) if group is not but)


def _words(targets: dict[str, int]) -> str:
    return ", ".join(f"{number} of {role}" for role, number in sorted(targets.items())) or "no other numbers"
