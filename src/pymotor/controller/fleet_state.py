"""What the leading Controller knows and decides: reports and watches in, orders and snapshots out.

Pure: no I/O, no clock; `now` is any count of seconds that only grows. What one node says changes its own instance only.
"""

from __future__ import annotations

from pymotor.controller.assembly import claim, place, withdraw
from pymotor.controller.draining import begin_drain, check_drain, check_drains, end_drain
from pymotor.controller.drains import Drain, KnownCoordinator, Purpose
from pymotor.controller.events import History
from pymotor.controller.fleet_book import Changes, FleetBook
from pymotor.controller.groups import Group
from pymotor.controller.nodes import KnownNode, ReportRefused
from pymotor.controller.scaling import keep_targets, learn_targets
from pymotor.controller.settings import ControllerSettings
from pymotor.controller.silence import note_heard, note_silence
from pymotor.fleet import FleetWatch, NodeReport, ReportReply

__all__ = ["Changes", "FleetState", "SupersededError"]

MOST_NODES = 4096
"""Of one instance; a mistaken report must not take the memory."""


class SupersededError(Exception):
    """Somebody has heard of a leader with a greater epoch: this one is none any more."""

    def __init__(self, who: str, epoch: int) -> None:
        """`epoch`: the greater one."""
        super().__init__(f"{who} follows epoch {epoch}")
        self.epoch = epoch


class FleetState:
    """The core of a leading Controller; a new leader makes a new one."""

    def __init__(
        self,
        epoch: int,
        settings: ControllerSettings,
        now: float,
        *,
        numbers: dict[str, int] | None = None,
        history: History | None = None,
        listens: bool = True,
    ) -> None:
        """`numbers`: the greatest instance number given so far, by role. `listens`: False where no fleet can have
        been before, so that there is nobody to listen for."""
        listens = listens and settings.listen_seconds > 0
        self.history = history if history is not None else History()
        self.book = FleetBook(epoch, settings, self.history, numbers or {}, listens)
        self._listens_until = now + settings.listen_seconds
        self._listens_at_most_until = now + settings.gone_timeout
        self.book.doubt(now + settings.gone_timeout)
        words = f"listens for {settings.listen_seconds:g} s" if listens else "begins at once"
        self.book.say(now, "leads", f"this Controller leads with epoch {epoch} and {words}")

    @property
    def epoch(self) -> int:
        """The leader's."""
        return self.book.epoch

    @property
    def listening(self) -> bool:
        """Whether it still learns who is there."""
        return self.book.listening

    @property
    def numbers(self) -> dict[str, int]:
        """The greatest number given, by role: to be kept before an order with it is sent."""
        return self.book.numbers

    def take_changes(self) -> Changes:
        """Which orders and whether the snapshot changed since the last call."""
        return self.book.take_changes()

    # nodes

    def report(self, report: NodeReport, now: float) -> None:
        """Take a node's report over.

        Raises `nodes.ReportRefused` for one that is too late or of a second NodeManager, `SupersededError`.
        """
        book = self.book
        held = report.held
        if max(report.nodes_per_instance, held.nodes if held is not None else 1) > MOST_NODES:
            raise ReportRefused(f"node {report.node}: an instance has at most {MOST_NODES} nodes")
        if held is not None and held.epoch > book.epoch:
            raise SupersededError(f"node {report.node}", held.epoch)
        node = book.nodes.get(report.node)
        if node is None:
            node = book.nodes[report.node] = KnownNode(report, now)
            self._heard_newcomer(now)
            node.released = held is not None and held.released
            if held is not None and not held.instance and held.role in report.roles:
                node.assigned_role = held.role  # by a former leader
            book.say(now, "node_joined", f"{report.node} reports for job {report.job}", node=report.node)
        else:
            leaving = node.report.leaving
            if node.take(report, now, book.settings):
                self._succeeded(node, now)
            elif report.leaving and not leaving:
                book.say(now, "node_leaves", f"{node.name} was asked to end", node=node.name)
            if node.silent:
                note_heard(book, node, now)
        if held is not None:
            learn_targets(book, held, now)
            if held.instance and not node.instance and node.order is None:
                claim(book, node, held, now)
        self._seen(node, now)

    def _succeeded(self, node: KnownNode, now: float) -> None:
        """A new NodeManager stands in for one that is no more: nothing of that one runs."""
        report, group = node.report, self.book.groups.get(node.instance)
        self.book.say(now, "node_restarted", f"a new NodeManager of {node.name} reports", group, node.name)
        for instance in [instance for instance, holders in self.book.holders.items() if node.name in holders]:
            self.book.let_go(instance, node.name)
        if node.assigned_role not in report.roles:
            node.assigned_role = None
        if group is None:
            return
        if (group.job, group.role, len(group.seats)) != (report.job, node.role, report.nodes_per_instance):
            self.book.dissolve(group, now, f"node {node.name} came back as another kind of node")
            return
        if len(group.seats) > 1 and not group.ending:
            # Before it is ordered anything: under the present generation others remember its engines' memory.
            self.book.raise_generation(group, now, f"node {node.name} began anew")
        waits_for_leaving = group.drain is not None and group.drain.purpose is Purpose.LEAVE and not group.ending
        if waits_for_leaving and not any(self.book.nodes[name].report.leaving for name in group.members):
            end_drain(self.book, group, now, f"node {node.name} is back")

    def _seen(self, node: KnownNode, now: float) -> None:
        """All that follows from a node's newest report."""
        book = self.book
        group = book.groups.get(node.instance)
        if group is None:
            if node.idle:
                for instance in [instance for instance, holders in book.holders.items() if node.name in holders]:
                    book.let_go(instance, node.name)
            place(book, node, now)
            book.order(node)
            return
        if node.report.leaving and not group.going:
            begin_drain(book, group, Drain(Purpose.LEAVE, node.name, now, book.settings.drain_limit), now)
        book.refresh(group, now)
        check_drain(book, group, now)

    def reply(self, node: str) -> ReportReply:
        """The answer to a node's report. Raises `KeyError` for a node that has not reported."""
        return ReportReply(
            epoch=self.epoch, order=self.book.nodes[node].order, report_within=self.book.settings.heartbeat
        )

    def has_news_for(self, report: NodeReport) -> bool:
        """Whether the order of the node is another than the report says it holds."""
        known = self.book.nodes.get(report.node)
        if known is None or known.order is None:
            return False
        return report.held is None or report.held.age != known.order.age

    def silent(self, node: str, incarnation: str, now: float) -> None:
        """The waiting report's connection broke; without another report soon the node is silent."""
        known = self.book.nodes.get(node)
        if known is not None and known.report.incarnation == incarnation and known.lost is None:
            known.lost = now

    # Coordinators

    def watch(self, watch: FleetWatch, now: float) -> bytes | None:
        """Take over what a Coordinator says; the snapshot as JSON where it is newer than the Coordinator's. One that
        has no name sends no requests anywhere, and nobody waits for it.

        Raises `SupersededError`.
        """
        if watch.epoch > self.epoch:
            raise SupersededError(f"Coordinator {watch.coordinator}", watch.epoch)
        if not watch.coordinator:
            return self.newer_than(watch)
        if watch.coordinator not in self.book.coordinators:
            self.book.say(now, "coordinator_joined", f"Coordinator {watch.coordinator} watches")
        self.book.coordinators[watch.coordinator] = KnownCoordinator(watch, now)
        check_drains(self.book, now)
        return self.newer_than(watch)

    def newer_than(self, watch: FleetWatch) -> bytes | None:
        """The snapshot as JSON, where it is newer than what the Coordinator has."""
        newest = (self.epoch, self.book.version)
        return self.book.snapshot_json() if (watch.epoch, watch.version) < newest else None

    def still_watching(self, coordinator: str, now: float) -> None:
        """A Coordinator's watch is still open."""
        known = self.book.coordinators.get(coordinator)
        if known is not None:
            known.heard = now

    @property
    def drains(self) -> bool:
        """Whether an instance drains, so that Coordinators should say often what is in flight."""
        return any(group.drain is not None and not group.drain.done for group in self.book.groups.values())

    # time

    def tick(self, now: float) -> None:
        """What follows from time alone; to be called about twice a second."""
        book = self.book
        if book.listening and self._has_listened(now):
            self._begin(now)
        note_silence(book, now)
        self._forget(now)
        for group in list(book.groups.values()):
            self._look_after(group, now)
        check_drains(book, now)
        if not book.listening:
            keep_targets(book, now)
            for node in book.unseated():
                place(book, node, now)

    def _has_listened(self, now: float) -> bool:
        """Whether it may begin: not while nodes are only just finding their way here, and not without any, since then
        rather nobody has found it than that all are gone."""
        if now < self._listens_until:
            return False
        return bool(self.book.nodes) or now >= self._listens_at_most_until

    def _heard_newcomer(self, now: float) -> None:
        """Where one comes others may still be on their way: they have another heartbeat."""
        later = min(now + self.book.settings.listen_seconds / 3, self._listens_at_most_until)
        self._listens_until = max(self._listens_until, later)

    def _begin(self, now: float) -> None:
        book = self.book
        book.listening = False
        book.next_version()
        book.say(now, "listened", f"{len(book.nodes)} nodes and {len(book.groups)} instances are there")
        for group in book.groups.values():
            group.incomplete_since = now
            book.refresh(group, now)
        book.order_all()

    def _look_after(self, group: Group, now: float) -> None:
        book = self.book
        if book.listening or group.ending or book.groups.get(group.name) is not group:
            return
        members = [book.nodes[name] for name in group.members]
        if not group.complete:
            if group.reserved:
                if now - group.incomplete_since >= book.settings.gone_timeout:
                    book.dissolve(group, now, "some of its nodes were not heard of since the leader changed")
            elif now - group.incomplete_since >= book.settings.assemble_timeout:
                withdraw(book, group, now)
        elif (
            group.restart_at is not None
            and now >= group.restart_at
            and group.drain is None
            and not any(node.silent for node in members)
        ):
            book.raise_generation(group, now, group.broken)

    def _forget(self, now: float) -> None:
        """Nodes that are gone, and Coordinators."""
        book, gone = self.book, self.book.settings.gone_timeout
        for node in [node for node in book.nodes.values() if node.silent]:
            group = book.groups.get(node.instance)
            away = now - node.heard
            if group is not None:
                if book.listening or group.silence_ignored or away < gone or (group.ending and node.idle):
                    continue
                book.dissolve(group, now, f"node {node.name} was not heard of for {gone:g} s")
            elif away < gone and not node.idle:
                continue
            del book.nodes[node.name]
            book.say(now, "node_forgotten", f"{node.name} was not heard of for {away:.0f} s", node=node.name)
        patience = 6 * book.settings.coordinator_timeout
        for known in [known for known in book.coordinators.values() if now - known.heard >= patience]:
            del book.coordinators[known.watch.coordinator]
            book.say(now, "coordinator_gone", f"Coordinator {known.watch.coordinator} watches no more")
