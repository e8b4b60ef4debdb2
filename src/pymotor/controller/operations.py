"""What people, and the rooms that act on faults, may ask the leading Controller to do."""

from __future__ import annotations

from pymotor.controller.assembly import has_place, switchable
from pymotor.controller.draining import begin_drain, end_drain
from pymotor.controller.drains import Drain, Purpose
from pymotor.controller.fleet_state import FleetState
from pymotor.controller.groups import Group
from pymotor.controller.scaling import move_target, set_target
from pymotor.fleet import InstanceState, Role


class UnknownInstance(LookupError):
    """There is no instance of that name."""


class OperationRefused(Exception):
    """It cannot be done now; the message says why and what would help."""


class Operations:
    """All operations on one `FleetState`; each raises `UnknownInstance` or `OperationRefused`.

    None is taken while the Controller still listens: it does not know yet what it would decide about.
    """

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._book = state.book

    def drain(self, instance: str, now: float, *, limit: float | None = None, why: str = "") -> None:
        """No new requests; running ones have `limit` seconds. It stays drained until `undrain`."""
        self._drain(self._group(instance), Purpose.STAY, now, limit, why)

    def undrain(self, instance: str, now: float) -> None:
        """New requests again."""
        group = self._group(instance)
        if group.drain is None:
            raise OperationRefused(f"{instance} does not drain")
        if group.ending:
            raise OperationRefused(f"{instance} has drained and ends: {group.drain.reason}")
        if group.drain.purpose is Purpose.LEAVE:
            raise OperationRefused(f"{instance} drains because {group.drain.reason}; that cannot be undone here")
        end_drain(self._book, group, now, "somebody asked for it")
        target, standing = self._book.targets.get(group.role.value), len(self._book.standing(group.role))
        if target is not None and standing > target:
            set_target(self._book, group.role, standing, now)  # else it would drain again at once

    def cordon(self, instance: str, now: float, *, why: str = "") -> None:
        """No new requests; nothing else changes."""
        self._cordon(self._group(instance), True, now, why)

    def uncordon(self, instance: str, now: float) -> None:
        """The cordon is lifted."""
        self._cordon(self._group(instance), False, now, "")

    def restart(
        self, instance: str, now: float, *, limit: float | None = None, why: str = "", force: bool = False
    ) -> None:
        """Drain, then start all its servers anew. Refused for the last active one of its role, unless `force`."""
        group = self._group(instance)
        if not force:
            self._refuse_last(group)
        self._drain(group, Purpose.RESTART, now, limit, why)

    def remove(
        self, instance: str, now: float, *, limit: float | None = None, why: str = "", force: bool = False
    ) -> None:
        """Drain, then release its nodes: they are not used again until their NodeManagers start anew. Refused for the
        last active one of its role, unless `force`."""
        group = self._group(instance)
        if not force:
            self._refuse_last(group)
        self._drain(group, Purpose.REMOVE, now, limit, why)

    def switch_role(
        self,
        instance: str,
        role: Role,
        now: float,
        *,
        limit: float | None = None,
        why: str = "",
        force: bool = False,
        borrowed: bool = False,
    ) -> None:
        """Drain, then its nodes become instances of another role. Refused for the last active one of its role, unless
        `force`.

        What is wanted changes with it, so that nobody takes it back; but not where the nodes are `borrowed` to make up
        for what is lost: then it is refused where enough instances of the other role stand.
        """
        group = self._group(instance)
        unable = [name for name in group.members if not switchable(self._book.nodes[name], role)]
        if unable:
            raise OperationRefused(f"node {', '.join(unable)} is not set up to become {role.value}")
        if role is group.role:
            raise OperationRefused(f"{instance} is {role.value} already")
        if borrowed and not has_place(self._book, role):
            raise OperationRefused(f"as many instances of {role.value} as are wanted are there")
        if not force:
            self._refuse_last(group)
        self._drain(group, Purpose.SWITCH, now, limit, why, role)
        if not borrowed:
            move_target(self._book, group.role, role, now)

    def separate(self, instance: str, now: float, why: str) -> None:
        """Faults keep the instance from serving until `recover`; `why` in words for a person.

        It is in the orders, so that another leader keeps it until whoever looks at faults says otherwise.
        """
        group = self._group(instance)
        if group.separated != why:
            group.separated = why
            self._book.say(now, "separated", why, group)
            self._book.refresh(group, now)

    def recover(self, instance: str, now: float) -> None:
        """Faults do not keep it any more."""
        group = self._group(instance)
        if group.separated:
            self._book.say(now, "recovered", f"no longer: {group.separated}", group)
            group.separated = ""
            self._book.refresh(group, now)

    def release(self, node: str, now: float, why: str) -> None:
        """A node without an instance is wanted no more: its NodeManager ends."""
        self._refuse_listening()
        known = self._book.nodes.get(node)
        if known is None:
            raise UnknownInstance(f"there is no node {node!r}")
        if known.instance:
            raise OperationRefused(f"node {node} is part of {known.instance}; remove that")
        known.released = True
        self._book.say(now, "node_released", why or "somebody asked for it", node=node)
        self._book.order(known)

    def scale(self, role: Role, to: int, now: float) -> None:
        """So many instances of the role are wanted: too many are drained and released, the newest first.

        Refused for a role whose engines nothing describes: its nodes could not even start.
        """
        self._refuse_listening()
        configured = self._book.settings.configured
        if to and configured is not None and role not in configured:
            raise OperationRefused(f"the configuration has no motor_engine_{role.value}_config: nothing can run as it")
        set_target(self._book, role, to, now)

    def _cordon(self, group: Group, cordoned: bool, now: float, why: str) -> None:
        if group.cordoned is not cordoned:
            group.cordoned, group.cordon_reason = cordoned, why
            kind = "cordoned" if cordoned else "uncordoned"
            self._book.say(now, kind, why or "somebody asked for it", group)
            self._book.refresh(group, now)

    def _drain(
        self, group: Group, purpose: Purpose, now: float, limit: float | None, why: str, role: Role | None = None
    ) -> None:
        former = group.drain
        if former is not None and former.purpose.ends and purpose is not Purpose.REMOVE:
            raise OperationRefused(f"{group.name} {former.reason} already")
        if former is not None and former.purpose is purpose:
            raise OperationRefused(f"{group.name} drains already: {former.reason}")
        if group.ending:
            raise OperationRefused(f"{group.name} ends already")
        seconds = self._book.settings.drain_limit if limit is None else limit
        begin_drain(self._book, group, Drain(purpose, why, now, seconds, role=role), now)

    def _refuse_last(self, group: Group) -> None:
        others = [other for other in self._book.of_role(group.role) if other is not group]
        if group.state is InstanceState.ACTIVE and not any(other.state is InstanceState.ACTIVE for other in others):
            raise OperationRefused(
                f"{group.name} is the last active instance of {group.role.value}: nobody would serve meanwhile; "
                "force it if that is meant"
            )

    def _group(self, instance: str) -> Group:
        self._refuse_listening()
        group = self._book.groups.get(instance)
        if group is None:
            raise UnknownInstance(f"there is no instance {instance!r}")
        return group

    def _refuse_listening(self) -> None:
        if self._book.listening:
            raise OperationRefused("the Controller has just begun to lead and learns who is there; try again soon")
