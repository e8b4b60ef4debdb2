"""What is known of one node: its newest report, what it was ordered, and when it was heard."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import NodeOrder, NodeReport, Role

_FORMER_KEPT = 8


class ReportRefused(ValueError):
    """A report is too late, or comes from a second NodeManager of that name; the message says which."""


@dataclass(slots=True)
class KnownNode:
    """Changed by the Controller's core alone; all times are the core's `now`."""

    report: NodeReport
    heard: float
    lost: float | None = None
    """When a waiting report's connection broke, where nothing came since."""
    silent: bool = False
    """Whether its silence has been noticed."""
    instance: str = ""
    """The group it has a seat in; empty: none."""
    order: NodeOrder | None = None
    assigned_role: Role | None = None
    """The role it was switched to, where it is another than it was set up for."""
    withdrawn: bool = False
    """Its instance did not become complete: it waits until it can be."""
    released: bool = False
    """Not to be used again until its NodeManager starts anew."""
    confirm: tuple[int, int] | None = None
    """The age of the order that took its instance away; until it holds that, it may still follow an older one."""
    claim_refused: str = ""
    """The instance it says it has and cannot keep."""
    former: dict[str, int] = field(default_factory=dict)
    """The last sequence of NodeManagers of that name that were before."""

    @property
    def name(self) -> str:
        """The node's."""
        return self.report.node

    @property
    def role(self) -> Role:
        """What it is to be."""
        return self.assigned_role or self.report.role

    @property
    def idle(self) -> bool:
        """Whether it is sure that nothing runs, and that no order can arrive late and start something."""
        held = self.report.held
        if self.report.servers or (held is not None and held.instance):
            return False
        return self.confirm is None or (held is not None and held.age >= self.confirm)

    @property
    def usable(self) -> bool:
        """Whether it can be given an instance."""
        return not (self.instance or self.silent or self.released or self.report.leaving) and self.idle

    def is_silent(self, now: float, settings: ControllerSettings) -> bool:
        """Whether it has not been heard of for too long."""
        if now - self.heard >= settings.node_timeout:
            return True
        return self.lost is not None and now - self.lost >= settings.silent_grace

    def take(self, report: NodeReport, now: float, settings: ControllerSettings) -> bool:
        """Take a report over; whether it is the first of a new NodeManager. Raises `ReportRefused`."""
        last = self.report
        successor = report.incarnation != last.incarnation
        if successor:
            if report.sequence <= self.former.get(report.incarnation, -1):
                raise ReportRefused(f"node {self.name}: the report is of a NodeManager that was before")
            ended = self.idle and (last.leaving or self.released)
            if not ended and not self.is_silent(now, settings):
                raise ReportRefused(f"another NodeManager of the name {self.name} is alive")
            self.former.pop(last.incarnation, None)
            self.former[last.incarnation] = last.sequence
            while len(self.former) > _FORMER_KEPT:
                del self.former[next(iter(self.former))]
            self.released = self.withdrawn = False
            self.claim_refused, self.confirm = "", None
        elif report.sequence < last.sequence:
            raise ReportRefused(
                f"node {self.name}: report {report.sequence} is older than {last.sequence}, which was seen"
            )
        self.report, self.heard, self.lost = report, now, None
        return successor


def in_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """By which names are sorted: `node-2` before `node-10`."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.findall(r"\d+|\D+", name))
