"""What docs/fleet.md says of nodes, seats, numbers, silence and leaders, rule by rule."""

from __future__ import annotations

import json

import msgspec
import pytest
from fleet_in_memory import FleetInMemory, active

from model_node import ModelNode
from pymotor.controller.fleet_state import Changes, SupersededError
from pymotor.controller.nodes import ReportRefused
from pymotor.fleet import EndpointState, FleetWatch, Role


def pair(*names: str, **facts: object) -> list[ModelNode]:
    return [ModelNode(name, Role.PREFILL, 2, **facts) for name in names]


def test_one_node_becomes_an_active_instance() -> None:
    fleet = FleetInMemory(ModelNode("a"))
    fleet.rounds()
    assert fleet.states == {"union-0": "active"}
    assert fleet.snapshot.complete


def test_nodes_are_put_together_and_start_only_when_all_are_there() -> None:
    first, second = pair("a", "b")
    fleet = FleetInMemory(first)
    fleet.rounds()
    assert first.held is not None
    assert (first.held.instance, first.held.master_address) == ("prefill-0", "")
    assert first.run is None
    fleet.nodes.append(second)
    fleet.rounds()
    assert active(fleet)
    assert [node.held.node_rank for node in (first, second) if node.held] == [0, 1]
    assert {node.held.master_address for node in (first, second) if node.held} == {"a"}
    assert [endpoint.id for endpoint in fleet.snapshot.instances[0].endpoints] == ["prefill-0/0", "prefill-0/1"]


def test_ranktables_become_one() -> None:
    def table(server: str) -> str:
        devices = [{"device_id": "0", "rank_id": "0"}, {"device_id": "1", "rank_id": "1"}]
        return json.dumps({"version": "1.0", "server_list": [{"server_id": server, "device": devices}]})

    nodes = [ModelNode(name, Role.PREFILL, 2, ranktable=table(name)) for name in ("a", "b")]
    fleet = FleetInMemory(*nodes)
    fleet.rounds()
    assert nodes[0].held is not None
    merged = json.loads(nodes[0].held.ranktable)
    assert [device["rank_id"] for server in merged["server_list"] for device in server["device"]] == list("0123")
    assert merged["server_count"] == "2"


def test_a_missing_ranktable_is_a_fault_and_starts_nothing() -> None:
    nodes = [ModelNode("a", Role.PREFILL, 2, ranktable="{}"), ModelNode("b", Role.PREFILL, 2)]
    fleet = FleetInMemory(*nodes)
    fleet.rounds()
    assert "no ranktable" in fleet.group("prefill-0").fault
    assert nodes[0].run is None


def test_a_preferred_number_is_given_where_nobody_has_it() -> None:
    fleet = FleetInMemory(ModelNode("a", preferred_number=3), ModelNode("b", preferred_number=3), ModelNode("c"))
    fleet.rounds()
    assert fleet.seats == {"union-3": ["a"], "union-4": ["b"], "union-5": ["c"]}


def test_an_instance_that_is_put_together_again_is_another_generation() -> None:
    fleet = FleetInMemory(*pair("a", "b"))
    fleet.rounds()
    fleet.operations.remove("prefill-0", fleet.now, force=True)
    fleet.rounds()
    assert fleet.seats == {}
    for node in fleet.nodes:
        node.begin()
    fleet.rounds()
    assert fleet.seats == {"prefill-0": ["a", "b"]}
    assert fleet.group("prefill-0").generation == 2


def test_a_new_leader_gives_no_number_that_somebody_unheard_may_still_run() -> None:
    cut_off = ModelNode("a")
    fleet = FleetInMemory(cut_off, ModelNode("b"))
    fleet.rounds()
    fleet.nodes.remove(cut_off)
    fleet.new_leader()
    fleet.rounds(12)
    fleet.nodes.append(ModelNode("c", preferred_number=0))
    fleet.nodes.append(ModelNode("d", preferred_number=7))
    fleet.rounds()
    assert fleet.seats == {"union-1": ["b"], "union-2": ["c"], "union-7": ["d"]}
    fleet.nodes.append(cut_off)
    fleet.rounds()
    assert fleet.seats["union-0"] == ["a"]
    cut_off.leaving = True
    fleet.rounds()
    fleet.nodes[-1] = ModelNode("e", preferred_number=0)
    fleet.rounds()
    assert fleet.seats["union-0"] == ["e"], "the last holder has said that nothing runs"


def test_after_gone_timeout_who_is_unheard_counts_as_gone() -> None:
    fleet = FleetInMemory(ModelNode("a"), ModelNode("b"))
    fleet.rounds()
    fleet.nodes.pop(0)
    fleet.new_leader()
    fleet.rounds(301)
    fleet.nodes.append(ModelNode("c", preferred_number=0))
    fleet.rounds()
    assert fleet.seats == {"union-0": ["c"], "union-1": ["b"]}


def test_an_incomplete_instance_is_withdrawn_and_comes_when_it_can_be_whole() -> None:
    fleet = FleetInMemory(*pair("a"), assemble_timeout=5.0)
    fleet.rounds(8)
    assert fleet.seats == {}
    assert fleet.events("instance_gone")
    assert fleet.nodes[0].held is not None
    assert fleet.nodes[0].held.instance == ""
    fleet.rounds(20)
    assert len(fleet.events("instance_gone")) == 1
    fleet.nodes += pair("b")
    fleet.rounds()
    assert active(fleet)
    assert list(fleet.seats) == ["prefill-0"]


def test_an_older_report_is_refused_and_an_equal_one_is_taken() -> None:
    fleet = FleetInMemory(ModelNode("a"))
    early = fleet.nodes[0].report()
    late = fleet.nodes[0].report()
    fleet.core.report(late, fleet.now)
    fleet.core.report(late, fleet.now)
    with pytest.raises(ReportRefused, match="older"):
        fleet.core.report(early, fleet.now)


def test_a_second_node_manager_waits_until_the_first_is_silent_and_gets_its_instance() -> None:
    node = ModelNode("a", preferred_number=7)
    fleet = FleetInMemory(node)
    fleet.rounds()
    former = node.report()
    node.begin()
    with pytest.raises(ReportRefused, match="alive"):
        fleet.core.report(node.report(), fleet.now)
    fleet.core.silent("a", former.incarnation, fleet.now)
    fleet.now += fleet.settings.silent_grace
    fleet.rounds()
    assert fleet.seats == {"union-7": ["a"]}
    assert active(fleet)
    with pytest.raises(ReportRefused):
        fleet.core.report(former, fleet.now)


def test_a_broken_connection_counts_after_its_grace_unless_another_report_comes() -> None:
    fleet = FleetInMemory(ModelNode("a"))
    fleet.rounds()
    fleet.core.silent("a", fleet.nodes[0].incarnation, fleet.now)
    fleet.now += 0.5
    fleet.say(fleet.nodes[0])
    fleet.now += 2.0
    fleet.core.tick(fleet.now)
    assert active(fleet)
    fleet.core.silent("a", fleet.nodes[0].incarnation, fleet.now)
    fleet.now += 1.0
    fleet.core.tick(fleet.now)
    assert fleet.states == {"union-0": "inactive"}
    fleet.rounds(1)
    assert active(fleet)


def test_a_silent_node_is_inactive_then_gone_and_its_number_is_not_given_to_another() -> None:
    fleet = FleetInMemory(*(ModelNode(name) for name in "abc"))
    fleet.rounds()
    lost = fleet.nodes.pop(0)
    fleet.rounds(11)
    assert fleet.states["union-0"] == "inactive"
    assert "node a is not heard of" in fleet.group("union-0").fault
    fleet.rounds(300)
    assert "union-0" not in fleet.states
    fleet.nodes.append(ModelNode("d"))
    fleet.rounds()
    assert fleet.seats["union-3"] == ["d"]
    fleet.nodes.append(lost)
    fleet.rounds()
    assert fleet.seats["union-0"] == ["a"]
    assert active(fleet)


def test_a_number_is_free_when_its_last_holder_says_that_nothing_runs() -> None:
    fleet = FleetInMemory(*(ModelNode(name) for name in "ab"))
    fleet.rounds()
    fleet.nodes[0].leaving = True
    fleet.rounds()
    assert fleet.nodes[0].ended
    assert fleet.states == {"union-1": "active"}
    fleet.nodes[0] = ModelNode("c")
    fleet.rounds()
    assert fleet.seats == {"union-1": ["b"], "union-0": ["c"]}


def test_several_nodes_start_again_together_with_pauses_that_grow() -> None:
    fleet = FleetInMemory(*pair("a", "b"))
    fleet.rounds()
    pauses = []
    for generation in range(2, 6):
        fleet.nodes[1].crash()
        began = fleet.now
        fleet.say(fleet.nodes[1])
        assert fleet.group("prefill-0").state.value == "inactive"
        while fleet.group("prefill-0").generation < generation:
            fleet.rounds(1)
        pauses.append(fleet.now - began)
        fleet.rounds(3)
        assert active(fleet)
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    fleet.rounds(70)
    fleet.nodes[0].crash()
    fleet.rounds(2)
    assert fleet.group("prefill-0").generation == 6


def test_a_new_node_manager_raises_the_generation_for_all() -> None:
    fleet = FleetInMemory(*pair("a", "b"))
    fleet.rounds()
    fleet.core.silent("a", fleet.nodes[0].incarnation, fleet.now)
    fleet.now += 1.0
    fleet.nodes[0].begin()
    fleet.say(fleet.nodes[0])
    assert fleet.nodes[0].held is not None
    assert fleet.nodes[0].held.generation == 2, "its first order is not one that was followed before"
    fleet.rounds(6)
    assert active(fleet)
    assert fleet.group("prefill-0").generation == 2
    assert [node.run.generation for node in fleet.nodes if node.run] == [2, 2]


def test_a_new_leader_learns_everything_from_echoes() -> None:
    fleet = FleetInMemory(ModelNode("a"), ModelNode("b"), *pair("p", "q"))
    fleet.rounds()
    fleet.nodes[3].crash()
    fleet.rounds(5)
    fleet.operations.cordon("union-0", fleet.now, why="a new cable")
    fleet.operations.drain("union-1", fleet.now, why="look")
    fleet.operations.separate("prefill-0", fleet.now, "device 3 is broken")
    fleet.operations.scale(Role.PREFILL, 1, fleet.now)
    fleet.rounds()
    before, seats = fleet.states, dict(fleet.seats)
    fleet.new_leader()
    version = fleet.snapshot.version
    fleet.rounds(5)
    assert not fleet.snapshot.complete
    assert fleet.states == before
    assert all(fleet.core.reply(node.name).order is None for node in fleet.nodes)
    fleet.rounds(6)
    assert fleet.snapshot.complete
    assert fleet.snapshot.version > version
    assert fleet.states == before
    assert fleet.seats == seats
    assert fleet.group("prefill-0").generation == 2
    assert fleet.group("union-0").cordoned
    assert fleet.group("union-0").fault == "cordoned: a new cable"
    assert fleet.group("prefill-0").fault == "device 3 is broken"
    assert fleet.group("union-1").drain.reason == "drained: look"
    assert fleet.core.book.targets == {"prefill": 1}
    assert all(node.held.epoch == 2 for node in fleet.nodes if node.held)


def test_while_it_listens_it_gives_nothing_that_is_not_asked_for() -> None:
    fleet = FleetInMemory(ModelNode("a"))
    fleet.rounds()
    fleet.new_leader()
    fleet.nodes.append(ModelNode("b"))
    fleet.rounds(5)
    assert fleet.seats == {"union-0": ["a"]}
    fleet.rounds(6)
    assert fleet.seats == {"union-0": ["a"], "union-1": ["b"]}


def test_a_leader_that_hears_nobody_removes_nobody() -> None:
    """Nodes that waited at a leader which hangs come late, one after the other."""
    fleet = FleetInMemory(ModelNode("a"), ModelNode("b"))
    fleet.rounds()
    fleet.new_leader()
    fleet.rounds(30, *fleet.nodes)
    assert not fleet.snapshot.complete
    fleet.rounds(2, fleet.nodes[1])
    assert not fleet.snapshot.complete
    fleet.rounds(5)
    assert fleet.snapshot.complete
    assert fleet.states == {"union-0": "active", "union-1": "active"}


def test_a_leader_without_any_node_begins_in_the_end() -> None:
    fleet = FleetInMemory()
    fleet.new_leader()
    fleet.rounds(int(fleet.settings.gone_timeout) - 1)
    assert not fleet.snapshot.complete
    fleet.rounds(2)
    assert fleet.snapshot.complete


def test_a_node_that_was_not_heard_of_while_the_leader_listened_keeps_its_seat() -> None:
    fleet = FleetInMemory(*pair("a", "b"))
    fleet.rounds()
    fleet.new_leader()
    fleet.rounds(12, fleet.nodes[1])
    fleet.nodes += pair("c")
    fleet.rounds(3, fleet.nodes[1])
    assert fleet.seats == {"prefill-0": ["a", ""], "prefill-1": ["c", ""]}
    fleet.rounds(4)
    assert fleet.seats["prefill-0"] == ["a", "b"]
    assert fleet.states["prefill-0"] == "active"


def test_of_two_that_claim_one_instance_the_one_that_is_known_keeps_it() -> None:
    known, other = ModelNode("a"), ModelNode("b")
    fleet = FleetInMemory(known)
    fleet.rounds()
    other.held = other.run = known.held
    other.state = EndpointState.READY
    fleet.nodes.append(other)
    fleet.rounds(1)
    assert fleet.seats == {"union-0": ["a"]}
    assert other.run is None
    assert [event.node for event in fleet.events("claim_refused")] == ["b"]
    fleet.rounds()
    assert fleet.seats == {"union-0": ["a"], "union-1": ["b"]}
    assert active(fleet)


def test_most_of_all_silent_at_once_is_the_controllers_own_fault() -> None:
    fleet = FleetInMemory(*(ModelNode(name) for name in "abcd"))
    fleet.rounds()
    mute = fleet.nodes[:3]
    fleet.rounds(320, *mute)
    assert set(fleet.states.values()) == {"active"}
    assert len(fleet.events("controller_cut_off")) == 1
    fleet.rounds(2, mute[0])
    assert fleet.states["union-0"] == "active"
    assert fleet.events("controller_reached")
    fleet.rounds(12, mute[0])
    assert fleet.states["union-0"] == "inactive"


def test_the_only_instance_that_falls_silent_is_inactive() -> None:
    fleet = FleetInMemory(ModelNode("a"))
    fleet.rounds()
    fleet.rounds(11, fleet.nodes[0])
    assert fleet.states == {"union-0": "inactive"}


def test_whoever_follows_a_greater_epoch_ends_this_leader() -> None:
    fleet = FleetInMemory(ModelNode("a"))
    fleet.rounds()
    with pytest.raises(SupersededError):
        fleet.core.watch(FleetWatch(coordinator="c", epoch=2), fleet.now)


def test_a_report_changes_no_other_instance_and_says_what_changed() -> None:
    fleet = FleetInMemory(ModelNode("a"), ModelNode("b"))
    fleet.rounds()
    fleet.core.take_changes()
    version = fleet.core.book.version
    fleet.say(fleet.nodes[0])
    assert fleet.core.take_changes() == Changes(frozenset(), False)
    assert fleet.core.book.version == version
    fleet.nodes[0].crash()
    fleet.say(fleet.nodes[0])
    assert fleet.core.take_changes().snapshot


def test_an_id_that_is_not_the_instances_own_never_reaches_a_snapshot() -> None:
    fleet = FleetInMemory(ModelNode("a"), ModelNode("b"))
    fleet.rounds()
    report = fleet.nodes[1].report()
    share = fleet.nodes[0].report().share
    liar = msgspec.structs.replace(report, share=msgspec.structs.replace(share, name="union-1"))
    fleet.core.report(liar, fleet.now)
    ids = [endpoint.id for instance in fleet.snapshot.instances for endpoint in instance.endpoints]
    assert ids == ["union-0/0"]


def test_a_number_is_not_free_while_an_order_with_it_may_be_under_way() -> None:
    late = ModelNode("a", Role.PREFILL, 2)
    fleet = FleetInMemory(late, assemble_timeout=5.0)
    fleet.core.report(late.report(), fleet.now)
    under_way = fleet.core.reply("a")
    fleet.now += 6.0
    fleet.core.report(late.report(), fleet.now)
    fleet.core.tick(fleet.now)
    assert fleet.seats == {}
    fleet.core.report(late.report(), fleet.now)
    fleet.nodes = pair("b", "c")
    fleet.rounds(3)
    assert fleet.seats == {"prefill-1": ["b", "c"]}
    late.take(under_way)
    fleet.nodes.append(late)
    fleet.rounds(3)
    assert late.held is not None
    assert late.held.instance == ""
