"""The policies of faults on the real core: what they decide happens to nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx
import pytest

from model_node import ModelNode
from pymotor.controller.alarm_records import Origin
from pymotor.controller.alarms import AlarmLog, FleetAlarms
from pymotor.controller.faults.cluster_watch import ClusterFaults
from pymotor.controller.faults.levels import FaultLevel, HardwareFault
from pymotor.controller.faults.strategist import Strategist
from pymotor.controller.faults.view import Switches
from pymotor.controller.file_lease import FileLease
from pymotor.controller.leadership import Leadership
from pymotor.controller.observability_app import observability_app
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import ControllerSettings
from pymotor.fleet import InstanceState, Role

EITHER = (Role.PREFILL, Role.DECODE)
BROKEN = HardwareFault(machine="m-d1", code=0x80CD8008, level=FaultLevel.L6, words="broken")


class Fleet:
    """A Controller that leads, its strategist, and nodes that do as they are told; time passes by `pass_time`."""

    def __init__(self, folder: Path, wanted: dict[Role, int]) -> None:
        self.now = 0.0
        self.faults = ClusterFaults(complete=True)
        self.leadership = Leadership(FileLease(folder), "test", "http://here", 1e6)
        self.service = ControllerService(self.leadership, ControllerSettings(wanted=wanted), clock=lambda: self.now)
        self.log = AlarmLog(Origin(), lambda: self.now)
        self.strategist = Strategist(
            self.service,
            FleetAlarms(self.log),
            switches=Switches(),
            wanted=wanted,
            faults=lambda: self.faults,
            stands_by=False,
        )
        self.nodes = {
            name: ModelNode(name, role, roles=EITHER, machine=f"m-{name}")
            for name, role in (("p0", EITHER[0]), ("p1", EITHER[0]), ("d0", EITHER[1]), ("d1", EITHER[1]))
        }
        self.away: set[str] = set()

    async def report(self) -> None:
        async def broken() -> None:
            await asyncio.Event().wait()

        for name, node in self.nodes.items():
            if name not in self.away:
                node.take(await self.service.report(node.report(), broken))
                node.work()

    async def pass_time(self, seconds: float, *, step: float = 3.0) -> None:
        """Nodes report, the core and the strategist look, every `step` seconds."""
        ends = self.now + seconds
        while self.now < ends:
            self.now += step
            await self.report()
            self.service.term().state.tick(self.now)
            await self.strategist.look()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until something that stands in snapshots is so."""
        watches = self.service.term().watches
        while not condition():
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            watches.add(news)
            await news
            watches.discard(news)

    def states(self) -> dict[str, InstanceState]:
        """By name."""
        return {one.name: one.state for one in self.service.term().state.book.snapshot().instances}

    def active(self, role: Role) -> int:
        return sum(
            one.state is InstanceState.ACTIVE
            for one in self.service.term().state.book.snapshot().instances
            if one.role is role
        )

    def events(self, kind: str) -> list[str]:
        return [event.why for event in self.service.history.after(0) if event.kind == kind]


@pytest.fixture
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Fleet, None]:
    made = Fleet(tmp_path, getattr(request, "param", {Role.PREFILL: 2, Role.DECODE: 2}))
    assert await made.leadership.try_to_lead()
    leading = asyncio.create_task(made.service.lead(made.leadership.epoch))
    # It leads from its first step on.
    await asyncio.sleep(0)
    assert made.service.leads
    await made.pass_time(15.0)
    assert set(made.states().values()) == {InstanceState.ACTIVE}
    yield made
    leading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leading
    await made.leadership.hand_back()


async def test_broken_hardware_keeps_an_instance_from_serving_until_it_is_well(fleet):
    fleet.faults = ClusterFaults(by_machine={"m-d1": (BROKEN,)}, complete=True)
    await fleet.strategist.look()
    assert fleet.states()["decode-1"] is InstanceState.INACTIVE
    snapshot = fleet.service.term().state.book.snapshot()
    assert [one.fault for one in snapshot.instances if one.name == "decode-1"] == [str(BROKEN)]
    assert fleet.events("separated") == fleet.events("hardware_fault") == [str(BROKEN)]
    fleet.faults = ClusterFaults(complete=True)
    await fleet.strategist.look()
    assert fleet.states()["decode-1"] is InstanceState.ACTIVE
    assert fleet.events("hardware_fault_gone") == [str(BROKEN)]


async def test_prefill_takes_a_lost_decode_over_and_comes_back(fleet):
    fleet.away = {"d1"}
    await fleet.pass_time(30.0)
    assert fleet.active(Role.PREFILL) == 2, "it may come back yet"
    await fleet.pass_time(60.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (1, 2)
    (why,) = fleet.events("roles_change")
    assert "decode-1 is lost" in why
    await fleet.pass_time(300.0)
    assert len(fleet.events("roles_change")) == 1
    fleet.away = set()
    await fleet.pass_time(150.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (2, 2)
    assert "where 2 are wanted" in fleet.events("roles_change")[1]
    await fleet.pass_time(300.0)
    assert len(fleet.events("roles_change")) == 2


async def test_numbers_that_an_operator_asked_for_do_not_count_what_is_out(fleet):
    """Another instance stands in for it, whose nodes go back when it serves again; nobody is released."""
    for role in EITHER:
        fleet.service.term().operations.scale(role, 2, fleet.now)
    fleet.away = {"d1"}
    await fleet.pass_time(90.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (1, 2)
    assert len(fleet.states()) == 4, "the one that is out is still there"
    fleet.away = set()
    await fleet.pass_time(150.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (2, 2)
    assert sorted(fleet.states()) == ["decode-0", "decode-1", "prefill-0", "prefill-1"]
    assert not any(node.ended for node in fleet.nodes.values())


async def test_what_operators_switch_is_not_taken_back(fleet):
    fleet.service.term().operations.switch_role("prefill-1", Role.DECODE, fleet.now)
    await fleet.pass_time(300.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (1, 3)
    fleet.service.term().operations.switch_role("decode-2", Role.PREFILL, fleet.now)
    await fleet.pass_time(300.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (2, 2)
    assert fleet.events("roles_change") == []


@pytest.mark.parametrize("fleet", [{}], indirect=True)
async def test_where_nobody_said_how_much_decode_is_wanted_none_is_too_much(fleet):
    """A Controller without configuration, of which more prefill is asked than there are nodes for."""
    fleet.service.term().operations.scale(Role.PREFILL, 3, fleet.now)
    await fleet.pass_time(300.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (2, 2)
    assert fleet.events("roles_change") == []


async def test_the_last_prefill_stays(fleet):
    fleet.away = {"d0", "p1"}
    await fleet.pass_time(600.0)
    assert (fleet.active(Role.PREFILL), fleet.active(Role.DECODE)) == (1, 1)
    assert fleet.events("roles_change") == []


async def test_a_prefill_that_is_cordoned_does_not_count(fleet):
    fleet.away = {"d1"}
    await fleet.pass_time(30.0)
    fleet.service.term().operations.cordon("prefill-0", fleet.now)
    await fleet.pass_time(120.0)
    assert fleet.events("roles_change") == [], "prefill-0 does not serve, so prefill-1 is the last"


async def test_alarms_and_inventory_over_http(fleet):
    before = fleet.log.read().last
    fleet.away = {"d1"}
    await fleet.pass_time(15.0)
    app = observability_app(
        fleet.log, fleet.strategist.view, variables={}, leads=lambda: fleet.service.leads, token=None
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http:
        answer = (await http.get("/observability/alarms", params={"after": before})).json()
        inventory = (await http.get("/observability/inventory")).json()["data"]
    (records,) = answer["data"]["alarms"]
    assert sorted(record["alarmId"] for record in records) == ["0xFC001001", "0xFC001002", "0xFC001003"]
    assert inventory["modelState"] == 2
    assert [one["InstanceStatus"] for one in inventory["inventories"]["DInstanceList"]] == ["running", "error"]
    assert json.dumps(inventory)


async def test_a_controller_that_does_not_lead_looks_at_nothing(fleet):
    fleet.service.end_term()
    await fleet.strategist.look()


async def test_a_change_wakes_it(fleet):
    """Long before the interval is over."""
    running = asyncio.create_task(fleet.strategist.run(3600.0))
    fleet.faults = ClusterFaults(by_machine={"m-d1": (BROKEN,)}, complete=True)
    fleet.strategist.wake()
    await fleet.until(lambda: fleet.states()["decode-1"] is InstanceState.INACTIVE)
    fleet.faults = ClusterFaults(complete=True)
    fleet.service.term().operations.cordon("prefill-0", fleet.now)
    fleet.service.term().tell()
    await fleet.until(lambda: fleet.states()["decode-1"] is InstanceState.ACTIVE)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
