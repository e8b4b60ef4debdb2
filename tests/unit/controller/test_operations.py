"""Drain, cordon, restart, remove, switch, scale: what becomes of an instance."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_in_memory import FleetInMemory, active

from model_node import ModelNode
from pymotor.controller.drains import Drain, Purpose, drain_from
from pymotor.controller.operations import OperationRefused, UnknownInstance
from pymotor.controller.views import instance_views, node_views, scale_views
from pymotor.fleet import FleetWatch, Role


def running(*names: str, **limits: float) -> FleetInMemory:
    fleet = FleetInMemory(*(ModelNode(name) for name in names), **limits)
    fleet.rounds()
    return fleet


def test_drained_when_every_coordinator_knows_and_nothing_is_in_flight() -> None:
    fleet = running("a", "b")
    fleet.core.watch(FleetWatch(coordinator="late", epoch=1, version=0), fleet.now)
    fleet.operations.drain("union-0", fleet.now, why="look")
    fleet.rounds(1)
    assert fleet.states["union-0"] == "draining"
    drain = fleet.group("union-0").drain
    assert drain is not None
    assert not drain.done
    fleet.watch("late", union_0__0=2)
    assert "2 requests of Coordinator late" in instance_views(fleet.core.book, fleet.now)[0].drain_waits_for
    fleet.watch("late")
    drain = fleet.group("union-0").drain
    assert drain is not None
    assert drain.done
    fleet.rounds(20)
    assert fleet.states == {"union-0": "draining", "union-1": "active"}
    fleet.operations.undrain("union-0", fleet.now)
    assert active(fleet)


def test_a_drain_waits_for_no_watcher_that_sends_no_requests() -> None:
    fleet = running("a", "b")
    first = fleet.core.watch(FleetWatch(coordinator="", epoch=-1, version=-1), fleet.now)
    assert first is not None
    fleet.operations.drain("union-0", fleet.now)
    fleet.rounds(1)
    drain = fleet.group("union-0").drain
    assert drain is not None
    assert drain.done
    assert not fleet.events("coordinator_joined")
    assert fleet.core.watch(FleetWatch(coordinator="", epoch=1, version=0), fleet.now) is not None


def test_a_role_that_nothing_describes_is_not_scaled() -> None:
    """Its NodeManagers would end at once, and be started again for ever."""
    fleet = FleetInMemory(ModelNode("a"), configured=frozenset({Role.UNION}))
    fleet.rounds()
    with pytest.raises(OperationRefused, match="motor_engine_decode_config"):
        fleet.operations.scale(Role.DECODE, 1, fleet.now)
    fleet.operations.scale(Role.DECODE, 0, fleet.now)
    fleet.operations.scale(Role.UNION, 2, fleet.now)
    assert fleet.core.book.targets == {"decode": 0, "union": 2}


def test_a_coordinator_that_is_not_heard_of_is_not_waited_for() -> None:
    fleet = running("a", "b")
    fleet.core.watch(FleetWatch(coordinator="gone", epoch=1, version=0), fleet.now)
    fleet.operations.drain("union-0", fleet.now)
    fleet.rounds(9)
    assert not fleet.events("drained")
    fleet.rounds(2)
    assert fleet.events("drained")


def test_engines_that_compute_are_waited_for_until_the_limit() -> None:
    fleet = running("a", "b")
    fleet.nodes[0].load = 1
    fleet.rounds(1)
    fleet.operations.drain("union-0", fleet.now, limit=20.0)
    fleet.rounds(19)
    assert not fleet.events("drained")
    fleet.rounds(2)
    assert "1 requests in the engines" in fleet.events("drained")[0].why


def test_cordon_keeps_requests_away_and_nothing_else() -> None:
    fleet = running("a")
    fleet.operations.cordon("union-0", fleet.now)
    fleet.rounds(1)
    assert fleet.states == {"union-0": "inactive"}
    assert fleet.nodes[0].held is not None
    assert fleet.nodes[0].held.cordoned
    assert fleet.nodes[0].run is not None
    fleet.operations.uncordon("union-0", fleet.now)
    assert active(fleet)


def test_restart_drains_and_raises_the_generation() -> None:
    fleet = running("a", "b")
    fleet.operations.restart("union-0", fleet.now)
    with pytest.raises(OperationRefused, match="last active"):
        fleet.operations.restart("union-1", fleet.now)
    fleet.rounds()
    assert fleet.group("union-0").generation == 2
    assert active(fleet)


def test_the_last_of_its_role_restarts_only_by_force() -> None:
    fleet = running("a")
    with pytest.raises(OperationRefused, match="last active"):
        fleet.operations.restart("union-0", fleet.now)
    fleet.operations.restart("union-0", fleet.now, force=True)
    fleet.rounds()
    assert fleet.group("union-0").generation == 2


def test_remove_releases_the_node_until_its_node_manager_starts_anew() -> None:
    fleet = running("a", "b")
    fleet.operations.remove("union-0", fleet.now)
    fleet.rounds()
    assert fleet.states == {"union-1": "active"}
    assert fleet.nodes[0].ended
    with pytest.raises(OperationRefused, match="last active"):
        fleet.operations.remove("union-1", fleet.now)
    fleet.rounds(5)
    assert fleet.seats == {"union-1": ["b"]}
    fleet.nodes[0].begin()
    fleet.rounds()
    assert fleet.seats == {"union-1": ["b"], "union-0": ["a"]}


def test_a_node_that_leaves_takes_its_instance_with_it_and_the_other_nodes_wait() -> None:
    fleet = FleetInMemory(*(ModelNode(name, Role.PREFILL, 2) for name in "abc"))
    fleet.rounds()
    assert fleet.seats == {"prefill-0": ["a", "b"], "prefill-1": ["c", ""]}
    fleet.nodes[0].leaving = True
    fleet.rounds(6)
    assert fleet.nodes[0].ended
    assert sorted(fleet.seats["prefill-1"]) == ["b", "c"]
    assert fleet.states == {"prefill-1": "active"}


def test_a_role_is_switched_where_the_nodes_can() -> None:
    fleet = FleetInMemory(ModelNode("a", Role.PREFILL, roles=(Role.PREFILL, Role.DECODE)), ModelNode("b"))
    fleet.rounds()
    with pytest.raises(OperationRefused, match="not set up"):
        fleet.operations.switch_role("union-0", Role.DECODE, fleet.now)
    with pytest.raises(OperationRefused, match="last active instance of prefill"):
        fleet.operations.switch_role("prefill-0", Role.DECODE, fleet.now)
    fleet.operations.switch_role("prefill-0", Role.DECODE, fleet.now, why="it is needed", force=True)
    fleet.rounds(6)
    assert fleet.states == {"decode-0": "active", "union-0": "active"}
    fleet.new_leader()
    fleet.rounds(12)
    assert fleet.states == {"decode-0": "active", "union-0": "active"}


def either(*nodes: tuple[str, Role], **limits: Any) -> FleetInMemory:
    """Nodes that can play prefill and decode."""
    roles = (Role.PREFILL, Role.DECODE)
    fleet = FleetInMemory(*(ModelNode(name, role, roles=roles) for name, role in nodes), **limits)
    fleet.rounds()
    return fleet


def test_a_switch_changes_what_is_wanted_unless_it_is_borrowed() -> None:
    nodes = (("a", Role.PREFILL), ("b", Role.PREFILL), ("c", Role.DECODE))
    fleet = either(*nodes, wanted={Role.PREFILL: 2})
    fleet.operations.scale(Role.DECODE, 1, fleet.now)
    with pytest.raises(OperationRefused, match="as many instances of decode as are wanted"):
        fleet.operations.switch_role("prefill-1", Role.DECODE, fleet.now, borrowed=True)
    fleet.operations.switch_role("prefill-1", Role.DECODE, fleet.now)
    assert fleet.core.book.targets == {"prefill": 1, "decode": 2}
    fleet.rounds(6)
    assert fleet.states == {"prefill-0": "active", "decode-0": "active", "decode-1": "active"}
    fleet.operations.switch_role("decode-1", Role.PREFILL, fleet.now)
    fleet.rounds(6)
    assert fleet.seats == {"prefill-0": ["a"], "prefill-1": ["b"], "decode-0": ["c"]}
    assert fleet.core.book.targets == {"prefill": 2, "decode": 1}


def test_a_switch_goes_on_under_a_new_leader_that_finds_the_node_between_two_roles() -> None:
    fleet = either(("a", Role.PREFILL), ("b", Role.PREFILL))
    fleet.operations.switch_role("prefill-1", Role.DECODE, fleet.now)
    while fleet.nodes[1].held is None or fleet.nodes[1].held.instance:
        fleet.rounds(1)
    fleet.new_leader()
    fleet.rounds(14)
    assert fleet.states == {"prefill-0": "active", "decode-0": "active"}


def test_a_switched_node_without_its_fellow_goes_back_to_its_role() -> None:
    roles = (Role.PREFILL, Role.DECODE)
    fleet = FleetInMemory(*(ModelNode(name, Role.PREFILL, 2, roles=roles) for name in "ab"), assemble_timeout=20.0)
    fleet.rounds()
    fleet.operations.switch_role("prefill-0", Role.DECODE, fleet.now, force=True)
    fleet.rounds(6)
    assert fleet.states == {"decode-0": "active"}
    fleet.nodes[1].begin()
    fleet.new_leader()
    fleet.rounds(400)
    assert list(fleet.states.values()) == ["active"]
    assert fleet.group("prefill-0" if "prefill-0" in fleet.seats else "prefill-1").members == ["a", "b"]


def test_a_switch_that_is_undone_stays_undone() -> None:
    fleet = either(("a", Role.PREFILL), ("b", Role.PREFILL), wanted={Role.PREFILL: 2})
    fleet.nodes[1].load = 1
    fleet.rounds(1)
    fleet.operations.switch_role("prefill-1", Role.DECODE, fleet.now)
    fleet.operations.undrain("prefill-1", fleet.now)
    fleet.rounds(6)
    assert fleet.states == {"prefill-0": "active", "prefill-1": "active"}


@pytest.mark.parametrize("separated", [True, False])
def test_another_stands_in_for_one_that_is_out_and_goes_when_it_serves_again(separated: bool) -> None:
    fleet = running("a", "b")
    fleet.operations.scale(Role.UNION, 2, fleet.now)
    fleet.nodes.append(ModelNode("c"))
    fleet.rounds()
    assert len(fleet.seats) == 2
    if separated:
        fleet.operations.separate("union-0", fleet.now, "device 3 is broken")
    fleet.rounds(14, *([] if separated else [fleet.nodes[0]]))
    assert fleet.states == {"union-0": "inactive", "union-1": "active", "union-2": "active"}
    (scale,) = scale_views(fleet.core.book)
    assert (scale.present, scale.out, scale.missing_instances) == (2, 1, 0)
    if separated:
        fleet.operations.recover("union-0", fleet.now)
    fleet.rounds(6)
    assert fleet.states == {"union-0": "active", "union-1": "active"}


def test_borrowed_nodes_go_back_to_their_role_only_when_others_serve() -> None:
    fleet = either(("a", Role.DECODE), ("b", Role.PREFILL), ("c", Role.PREFILL))
    fleet.operations.switch_role("prefill-1", Role.DECODE, fleet.now, borrowed=True)
    fleet.rounds(6)
    fleet.nodes[0].crash()
    fleet.say(fleet.nodes[0])
    fleet.operations.scale(Role.DECODE, 1, fleet.now)
    assert fleet.states == {"decode-0": "inactive", "decode-1": "active", "prefill-0": "active"}
    fleet.rounds(8)
    assert fleet.states == {"decode-0": "active", "prefill-0": "active", "prefill-1": "active"}
    assert not any(node.ended for node in fleet.nodes)


def test_faults_separate_and_recover() -> None:
    fleet = running("a", "b")
    fleet.operations.separate("union-0", fleet.now, "device 3 is broken")
    assert fleet.states["union-0"] == "inactive"
    assert fleet.snapshot.instances[0].fault == "device 3 is broken"
    fleet.operations.recover("union-0", fleet.now)
    assert active(fleet)


def test_scale_in_takes_the_newest_and_survives_a_new_leader_and_new_nodes() -> None:
    fleet = running("a", "b", "c")
    fleet.operations.scale(Role.UNION, 1, fleet.now)
    fleet.rounds(6)
    assert fleet.states == {"union-0": "active"}
    assert [node.ended for node in fleet.nodes] == [False, True, True]
    fleet.new_leader()
    fleet.nodes[1].begin()
    fleet.rounds(12)
    assert fleet.states == {"union-0": "active"}
    (scale,) = scale_views(fleet.core.book)
    assert (scale.target, scale.present, scale.active, scale.waiting_nodes, scale.missing_nodes) == (1, 1, 1, 1, 0)
    fleet.operations.scale(Role.UNION, 3, fleet.now)
    fleet.rounds()
    (scale,) = scale_views(fleet.core.book)
    assert (scale.target, scale.present, scale.missing_nodes) == (3, 2, 1)


def test_scale_out_keeps_what_was_to_go() -> None:
    fleet = running("a", "b")
    fleet.nodes[1].load = 1
    fleet.rounds(1)
    fleet.operations.scale(Role.UNION, 1, fleet.now)
    fleet.rounds(2)
    assert fleet.states == {"union-0": "active", "union-1": "draining"}
    fleet.operations.scale(Role.UNION, 2, fleet.now)
    assert active(fleet)


def test_nothing_is_done_to_who_is_not_there_or_while_it_listens() -> None:
    fleet = running("a")
    with pytest.raises(UnknownInstance):
        fleet.operations.drain("union-7", fleet.now)
    with pytest.raises(OperationRefused, match="does not drain"):
        fleet.operations.undrain("union-0", fleet.now)
    fleet.new_leader()
    with pytest.raises(OperationRefused, match="learns who is there"):
        fleet.operations.drain("union-0", fleet.now)


@pytest.mark.parametrize("why", ["", "because: of that"])
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_drain_is_told_by_its_reason(purpose: Purpose, why: str) -> None:
    role = Role.DECODE if purpose is Purpose.SWITCH else None
    drain = Drain(purpose, why, 1.0, 2.0, role=role)
    assert drain_from(drain.reason, 1.0, 2.0) == drain


def test_a_restart_that_was_asked_for_goes_on_under_a_new_leader() -> None:
    fleet = running("a", "b")
    fleet.nodes[0].load = 1
    fleet.rounds(1)
    fleet.operations.restart("union-0", fleet.now)
    fleet.rounds(2)
    fleet.new_leader()
    fleet.rounds(12)
    assert fleet.states["union-0"] == "draining"
    fleet.nodes[0].load = 0
    fleet.rounds()
    assert fleet.group("union-0").generation == 2
    assert active(fleet)


def test_views_name_machines_devices_and_since_when() -> None:
    fleet = FleetInMemory(ModelNode("a", machine="host-1", device_ids=("npu-0", "npu-1")))
    fleet.core.history.wall_ahead = 5000.0
    fleet.rounds()
    (view,) = instance_views(fleet.core.book, fleet.now)
    assert (view.machines, view.device_ids, view.nodes) == (["host-1"], ["npu-0", "npu-1"], ["a"])
    assert view.since > 6000
    assert node_views(fleet.core.book, fleet.now)[0].instance == "union-0"
