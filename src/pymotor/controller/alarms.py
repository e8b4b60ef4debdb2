"""Alarms and events: kept, raised and cleared as the fleet changes, and read as often as anybody likes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from pymotor.controller.alarm_records import (
    CONTROLLER_TO_SLAVE,
    COORDINATOR_EXCEPTION,
    INSTANCE_EXCEPTION,
    SERVER_EXCEPTION,
    SERVICE_LEVEL_DEGRADATION,
    AlarmKind,
    AlarmRecord,
    Origin,
    record_of,
)
from pymotor.controller.faults.view import FleetView, InstanceView, NodeView
from pymotor.fleet import EndpointState, InstanceState, Role

KEPT = 4096
"""Records; older ones are forgotten, however many readers there are."""

_SILENT, _UNHEALTHY = 1, 2
_ROLE_MISSING, _NOT_HEARD = 1, 2


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader gets."""

    records: tuple[AlarmRecord, ...]
    first: int
    """Sequence of the oldest record that is kept; greater than asked for plus one: some were missed."""
    last: int
    """Sequence of the newest record that is kept, to be asked for next time."""


class AlarmLog:
    """The newest records, numbered without a gap. Reading changes nothing."""

    def __init__(self, origin: Origin, wall: Callable[[], float], *, kept: int = KEPT) -> None:
        """`wall`: seconds since 1970. Numbers begin with the milliseconds of now, so that they grow across restarts
        and from one leader to the next."""
        self.origin = origin
        self._wall = wall
        self._records: deque[AlarmRecord] = deque(maxlen=kept)
        self._last = self.now

    @property
    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._wall() * 1000)

    def add(self, record: AlarmRecord) -> None:
        """Keep one."""
        self._last += 1
        self._records.append(record)

    def read(self, after: int | None = None) -> Reading:
        """The records with a greater sequence than `after`, oldest first; all for None, and for a sequence that was
        never given, which a reader may have from another Controller."""
        first = self._last - len(self._records) + 1
        skipped = 0 if after is None or after > self._last else max(after - first + 1, 0)
        return Reading(records=tuple(self._records)[skipped:], first=first, last=self._last)

    def write(self, kind: AlarmKind, *, reason: int, where: str, detail: str = "", cleared: bool = False) -> None:
        """Keep a record of that kind, as of now; see `record_of`."""
        self.add(
            record_of(
                kind, self.origin, reason=reason, where=where, detail=detail, milliseconds=self.now, cleared=cleared
            )
        )


class _Open(msgspec.Struct, frozen=True):
    """An alarm that is raised and not cleared."""

    kind: AlarmKind
    reason: int
    where: str


class FleetAlarms:
    """Looks at the fleet again and again, and writes what has changed.

    Its memory is its own: a new leader raises anew what is still wrong, and cannot clear what an earlier one raised.
    """

    def __init__(self, log: AlarmLog) -> None:
        """Writes into `log`."""
        self._log = log
        self._open: dict[str, _Open] = {}
        self._silent: frozenset[str] = frozenset()
        self._unhealthy: frozenset[str] = frozenset()
        self._draining: frozenset[str] = frozenset()
        self._missed: dict[str, int] = {}
        """Coordinators that are not heard of, and how many were before."""
        self._heard: frozenset[str] = frozenset()
        self._served = False

    def look(self, view: FleetView) -> None:
        """Raise and clear; nothing while the view is not complete."""
        if not view.complete:
            return
        self._instances(view)
        self._servers(view)
        self._roles(view)
        self._coordinators(view)

    def took_over(self) -> None:
        """This Controller leads in the place of another, which therefore became the slave and cannot be asked."""
        where = f"service name=Controller, service ip={self._log.origin.address}"
        self._log.write(CONTROLLER_TO_SLAVE, reason=1, where=where)

    def _instances(self, view: FleetView) -> None:
        present = {one.name: one for one in view.instances}
        for one in view.instances:
            if one.active or one.cordoned:
                self._clear(f"instance {one.name}")
            elif one.state in (InstanceState.INACTIVE, InstanceState.GONE):
                self._raise(f"instance {one.name}", INSTANCE_EXCEPTION, 1, self._place(one), one.fault)
        for key in [key for key in self._open if key.startswith("instance ")]:
            name = key.removeprefix("instance ")
            role = next((role for role in Role if name.startswith(f"{role.value}-")), None)
            # One that left by itself is missed until the role has what it needs; one that was drained is not.
            enough = role is None or view.active(role) >= view.targets.get(role, 0)
            if name not in present and (enough or name in self._draining):
                self._clear(key)
        self._draining = frozenset(one.name for one in view.instances if one.state is InstanceState.DRAINING)

    def _servers(self, view: FleetView) -> None:
        nodes = [*(node for one in view.instances for node in one.nodes), *view.spare_nodes]
        silent = frozenset(node.name for node in nodes if node.silent)
        bad = (EndpointState.UNHEALTHY, EndpointState.GONE)
        unhealthy = frozenset(end.id for node in nodes for end in node.endpoints if end.state in bad)
        for node in nodes:
            if node.name in silent - self._silent:
                self._server(node, _SILENT, [end.id for end in node.endpoints])
            fresh = [end.id for end in node.endpoints if end.id in unhealthy - self._unhealthy]
            if fresh:
                self._server(node, _UNHEALTHY, fresh)
        self._silent, self._unhealthy = silent, unhealthy

    def _server(self, node: NodeView, reason: int, endpoints: Sequence[str]) -> None:
        where = f"service name=Controller, endpoint ip={node.address}, endpoint ids=[{','.join(endpoints)}]"
        self._log.write(SERVER_EXCEPTION, reason=reason, where=where, detail=f"node={node.name}")

    def _roles(self, view: FleetView) -> None:
        for role, wanted in view.targets.items():
            key, active = f"role {role.value}", view.active(role)
            if active >= wanted:
                self._clear(key)
            else:
                where = f"service name=Controller, instance type={role.value}, service ip={self._log.origin.address}"
                self._raise(key, SERVICE_LEVEL_DEGRADATION, 1, where, f"{active} of {wanted} instances are active")

    def _coordinators(self, view: FleetView) -> None:
        heard = frozenset(one.name for one in view.coordinators if one.heard)
        for name in sorted(self._heard - heard):
            self._missed[name] = len(self._heard)
            where = f"service name=Coordinator, name={name}"
            self._raise(f"coordinator {name}", COORDINATOR_EXCEPTION, _NOT_HEARD, where, "")
        # A Coordinator that starts anew has another name: what counts is that there are as many again.
        back = [name for name, before in self._missed.items() if name in heard or len(heard) >= before]
        for name in back:
            del self._missed[name]
            self._clear(f"coordinator {name}")
        self._heard = heard
        if can_serve(view):
            self._served = True
            self._clear("service")
        elif self._served:
            self._raise("service", COORDINATOR_EXCEPTION, _ROLE_MISSING, "service name=Coordinator", "")

    def _place(self, one: InstanceView) -> str:
        address = self._log.origin.address
        return f"service name=Controller, instance type={one.role.value}, inst_id={one.name}, service ip={address}"

    def _raise(self, key: str, kind: AlarmKind, reason: int, where: str, detail: str) -> None:
        if key not in self._open:
            self._open[key] = _Open(kind, reason, where)
            self._log.write(kind, reason=reason, where=where, detail=detail)

    def _clear(self, key: str) -> None:
        raised = self._open.pop(key, None)
        if raised is not None:
            self._log.write(raised.kind, reason=raised.reason, where=raised.where, cleared=True)


def can_serve(view: FleetView) -> bool:
    """Whether requests for text can be answered: by union instances, or by prefill and decode."""
    return bool(view.active(Role.UNION) or (view.active(Role.PREFILL) and view.active(Role.DECODE)))
