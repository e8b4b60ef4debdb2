"""Whatever is lost, late, doubled or reordered, and whoever starts anew: the fleet comes to rest with all active, and
nothing is ever given or run twice. The Controller's core and the NodeManager's decisions are the real ones."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_node import ModelNode
from pymotor.controller.drains import Purpose
from pymotor.controller.fleet_state import FleetState
from pymotor.controller.nodes import ReportRefused
from pymotor.controller.operations import OperationRefused, Operations
from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import FleetSnapshot, InstanceState, NodeReport, ReportReply, Role, decode_snapshot

SETTINGS = ControllerSettings(gone_timeout=40.0, assemble_timeout=60.0, drain_limit=20.0)
EITHER = (Role.PREFILL, Role.DECODE)

any_node = st.integers(0, 5)
any_message = st.integers(0, 10_000)
some_rounds = st.integers(0, 10)


class Fleet(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now = 100.0
        self.nodes = [
            ModelNode("union-a", preferred_number=0),
            ModelNode("union-b", preferred_number=0),
            *(ModelNode(f"prefill-{number}", Role.PREFILL, 2, roles=EITHER) for number in range(4)),
        ]
        self.reports: list[NodeReport] = []
        self.replies: list[tuple[str, ReportReply]] = []
        self.core = FleetState(1, SETTINGS, self.now, listens=False)
        self.seen = (0, -1)
        self.known: dict[tuple[int, int], FleetSnapshot] = {}
        self.pass_rounds(6)

    def step(self) -> None:
        self.core.tick(self.now)

    @rule(number=any_node)
    def a_node_reports(self, number: int) -> None:
        self.reports.append(self.nodes[number].report())

    @rule(number=any_node)
    def a_node_is_answered_at_once(self, number: int) -> None:
        node = self.nodes[number]
        self.replies.extend(self.deliver(node.report()))
        if self.replies:
            self.arrive(*self.replies[-1])

    @rule(rounds=some_rounds, again=st.lists(any_message, max_size=6))
    def all_goes_well_for_a_while(self, rounds: int, again: list[int]) -> None:
        """But what was answered before may come once more."""
        self.pass_rounds(rounds)
        for which in again:
            if self.replies:
                self.arrive(*self.replies[which % len(self.replies)])
                self.nothing_is_there_twice()

    def pass_rounds(self, rounds: int) -> None:
        for _ in range(rounds):
            self.now += 0.5
            for node in self.nodes:
                for to, reply in self.deliver(node.report()):
                    self.replies.append((to, reply))
                    self.arrive(to, reply)
                node.work()
            self.step()

    @precondition(lambda self: self.reports)
    @rule(which=any_message, again=st.booleans())
    def a_report_arrives(self, which: int, again: bool) -> None:
        which %= len(self.reports)
        message = self.reports[which] if again else self.reports.pop(which)
        self.replies.extend(self.deliver(message))

    @precondition(lambda self: self.replies)
    @rule(which=any_message, again=st.booleans())
    def a_reply_arrives(self, which: int, again: bool) -> None:
        which %= len(self.replies)
        self.arrive(*(self.replies[which] if again else self.replies.pop(which)))

    @rule()
    def all_under_way_is_lost(self) -> None:
        self.reports.clear()
        self.replies.clear()

    @rule(number=any_node)
    def a_connection_breaks(self, number: int) -> None:
        node = self.nodes[number]
        self.core.silent(node.name, node.incarnation, self.now)

    @rule(number=any_node)
    def a_server_goes_on(self, number: int) -> None:
        self.nodes[number].work()

    @rule(number=any_node)
    def a_server_ends(self, number: int) -> None:
        self.nodes[number].crash()

    @rule(number=any_node)
    def a_node_manager_starts_anew(self, number: int) -> None:
        self.nodes[number].begin()

    @rule(number=any_node)
    def a_node_is_to_end(self, number: int) -> None:
        self.nodes[number].leaving = True

    @rule(which=any_message, restart=st.booleans())
    def an_operator_restarts_or_drains_for_a_while(self, which: int, restart: bool) -> None:
        names = sorted(self.core.book.groups)
        if not names:
            return
        name, operations = names[which % len(names)], Operations(self.core)
        try:
            if restart:
                operations.restart(name, self.now, force=True)
            elif self.core.book.groups[name].drain is None:
                operations.drain(name, self.now)
            else:
                operations.undrain(name, self.now)
        except OperationRefused:
            pass

    @rule(which=any_message, role=st.sampled_from(EITHER), rounds=some_rounds)
    def an_operator_switches_a_role(self, which: int, role: Role, rounds: int) -> None:
        names = sorted(self.core.book.groups)
        if names:
            with suppress(OperationRefused):
                Operations(self.core).switch_role(names[which % len(names)], role, self.now, force=True)
        self.pass_rounds(rounds)

    @rule(which=any_message, hurt=st.booleans())
    def faults_come_and_go(self, which: int, hurt: bool) -> None:
        names = sorted(self.core.book.groups)
        if names:
            name, operations = names[which % len(names)], Operations(self.core)
            with suppress(OperationRefused):
                operations.separate(name, self.now, "broken") if hurt else operations.recover(name, self.now)

    @rule(seconds=st.sampled_from([0.5, 2.0, 11.0, 45.0]))
    def time_passes(self, seconds: float) -> None:
        ends = self.now + seconds
        while self.now < ends:
            self.now += 0.5
            self.step()

    @rule(heard=st.lists(any_node))
    def another_controller_leads(self, heard: list[int]) -> None:
        self.core = FleetState(self.core.epoch + 1, SETTINGS, self.now, numbers=self.core.numbers)
        for number in heard:
            self.replies.extend(self.deliver(self.nodes[number].report()))

    def teardown(self) -> None:
        """Everybody who was to end starts anew, and nothing goes wrong for long enough: all comes to rest."""
        if not hasattr(self, "core"):
            return  # it has not begun
        self.all_under_way_is_lost()
        for node in self.nodes:
            if node.leaving or node.ended:
                node.begin()
        for round_number in range(300):
            self.now += 1.0
            for node in self.nodes:
                for to, reply in self.deliver(node.report()):
                    self.arrive(to, reply)
                node.work()
            self.step()
            self.nothing_is_there_twice()
            self.no_identity_is_used_twice()
            if round_number == 150:
                self.operators_and_faults_rest()
        groups = self.core.book.groups.values()
        states = {group.name: (group.state, group.fault, group.seats) for group in groups}
        assert all(group.state is InstanceState.ACTIVE for group in groups), states
        assert sorted(name for group in groups for name in group.seats) == sorted(node.name for node in self.nodes)
        assert self.core.book.snapshot().complete
        for instance in self.core.book.snapshot().instances:
            assert len(instance.endpoints) == (1 if instance.role is Role.UNION else 2)

    def operators_and_faults_rest(self) -> None:
        for name, group in self.core.book.groups.items():
            Operations(self.core).recover(name, self.now)
            if group.drain is not None and group.drain.purpose is Purpose.STAY:
                Operations(self.core).undrain(name, self.now)

    def deliver(self, message: NodeReport) -> list[tuple[str, ReportReply]]:
        try:
            self.core.report(message, self.now)
        except ReportRefused:
            return []
        return [(message.incarnation, self.core.reply(message.node))]

    def arrive(self, incarnation: str, reply: ReportReply) -> None:
        for node in self.nodes:
            if node.incarnation == incarnation:
                node.take(reply)

    @invariant()
    def nothing_is_there_twice(self) -> None:
        book = self.core.book
        seats = Counter(name for group in book.groups.values() for name in group.members)
        assert all(count == 1 for count in seats.values()), seats
        for group in book.groups.values():
            assert all(book.nodes[name].instance == group.name for name in group.members)
        runs = Counter((node.run.instance, node.run.node_rank) for node in self.nodes if node.run is not None)
        assert all(count == 1 for count in runs.values()), runs

    @invariant()
    def no_identity_is_used_twice(self) -> None:
        """Of several nodes: peers would take the new engine's memory for the old one's."""
        started = Counter(key for node in self.nodes for key in node.started if key.nodes > 1)
        assert all(count == 1 for count in started.values()), started

    @invariant()
    def snapshots_only_grow(self) -> None:
        snapshot = decode_snapshot(self.core.book.snapshot_json())
        newest = (snapshot.epoch, snapshot.version)
        assert newest >= self.seen
        assert newest > self.seen or self.known.get(newest, snapshot) == snapshot
        self.seen = newest
        self.known = {newest: snapshot}
        names = [instance.name for instance in snapshot.instances]
        endpoints = [endpoint.id for instance in snapshot.instances for endpoint in instance.endpoints]
        assert len(set(names)) == len(names)
        assert len(set(endpoints)) == len(endpoints)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
