"""Whom an explanation leaves out, of a request that was sent and of one that is not: those whom a leg would, each with
the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
import pytest

from played_stages import Body, PlayedFleet, chat, played
from pymotor.coordinator.affinity.settings import AffinitySettings
from pymotor.coordinator.control import ExplainRequest
from pymotor.coordinator.recovery.circuits import OPEN
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.coordinator.settings import RequestLimits
from pymotor.fleet import ECDialect, Role
from worker_in_process import until

BARRED = "avoided: its circuit is open"
FULL = "avoided: it is full"
WITHOUT_KV = "avoided: it has no room for the KV cache"
UNIONS = {Role.UNION: 3}
PAIR = {Role.PREFILL: 3, Role.DECODE: 3}
AFFINITY = {"scheduler_type": "kv_cache_affinity"}
GATED = AFFINITY | {"affinity": AffinitySettings(rules=AffinityRules(mode="load_gated", load_gate_topn=8))}
PREFIX = {"scheduler_type": "prefix_hash"}
Leg = dict[str, Any]


def fleet_of(roles: dict[Role, int], **settings: object) -> PlayedFleet:
    """One whose circuits open at the first failure."""
    return PlayedFleet(ECDialect.STORE, roles, **{"circuit_failures": 1, "circuit_pause": 60.0, **settings})


async def told(fleet: PlayedFleet, body: Body | None = None) -> list[Leg]:
    """The legs of the newest request, or of one with this body that is not sent."""
    asked = ExplainRequest(number=1)
    if body is not None:
        asked = ExplainRequest(number=1, path="/v1/chat/completions", body=json.dumps(body).encode())
    reply = await fleet.worker.worker.explain(asked)
    assert reply.status == 200, reply.body
    legs: list[Leg] = json.loads(reply.body)["legs"]
    return legs


def chosen(legs: list[Leg]) -> list[str]:
    return [one["endpoint"] for leg in legs for one in leg["endpoints"] if one["chosen"]]


def excluded(leg: Leg) -> dict[str, str]:
    return {one["endpoint"]: one["excluded"] for one in leg["endpoints"] if "excluded" in one}


def open_circuits(fleet: PlayedFleet, *names: str) -> None:
    """These fail."""
    services = fleet.worker.worker._services
    for target in fleet.worker.worker._targets._by_id.values():
        if target.instance.name in names:
            services.circuits.failed(target, monotonic())


@asynccontextmanager
async def asking(fleet: PlayedFleet, endpoint_id: str) -> AsyncIterator[None]:
    """A request is at this endpoint, which holds it until the end."""
    stage = fleet[endpoint_id.removesuffix("/0")]
    former = len(stage.bodies)
    request = asyncio.create_task(fleet.ask(said()))
    await until(lambda: len(stage.bodies) > former, f"{endpoint_id} has the request")
    yield
    stage.held.set()
    assert (await request)[0] == 200


async def waits(fleet: PlayedFleet) -> bool:
    """Whether a request would."""
    (leg,) = await told(fleet, said())
    return "it would wait" in leg.get("note", "")


def said(**fields: object) -> Body:
    """A chat that is long enough for its beginning to be known again."""
    body = chat(**fields)
    body["messages"][0]["content"] = "a long story " * 200
    return body


@pytest.mark.parametrize("settings", [AFFINITY, GATED, PREFIX, {}], ids=["unified", "gated", "prefix", "load"])
@pytest.mark.parametrize("roles", [UNIONS, PAIR], ids=["union", "pair"])
def test_whose_circuit_is_open_is_told_of_what_is_sent_and_of_what_is_not(
    roles: dict[Role, int], settings: dict[str, object]
) -> None:
    async def scenario() -> None:
        async with fleet_of(roles, **settings) as fleet:
            sick = [f"{role.value}-1" for role in roles]
            open_circuits(fleet, *sick)
            for number in range(4):
                body = said(user=str(number))
                looks = [await told(fleet, body) for _ in range(3)]
                assert [excluded(leg) for leg in looks[0]] == [{f"{name}/0": BARRED} for name in sick]
                assert [len(leg["endpoints"]) for leg in looks[0]] == list(roles.values())
                assert chosen(looks[0]) == chosen(looks[1]) == chosen(looks[2]), "nobody's turn has passed"
                await fleet.ask(body)
                went = [name for role in roles for name, _ in fleet.sent(role)[-1:]]
                if settings:
                    legs = await told(fleet)
                    assert chosen(legs) == chosen(looks[0])
                    assert [excluded(leg) for leg in legs] == [excluded(leg) for leg in looks[0]]
                assert not set(went) & set(sick)

    played(scenario)


def test_what_a_spared_endpoint_holds_is_told_too() -> None:
    async def scenario() -> None:
        async with fleet_of(UNIONS, **AFFINITY) as fleet:
            await fleet.ask(said())
            (holder,) = chosen(await told(fleet))
            open_circuits(fleet, holder.removesuffix("/0"))
            before = await told(fleet, said())
            await fleet.ask(said())
            for legs in (before, await told(fleet)):
                figures = {one["endpoint"]: one for one in legs[0]["endpoints"]}
                assert figures[holder]["match_expected"] > 0
                assert figures[holder]["excluded"] == BARRED
                assert not figures[holder]["chosen"]

    played(scenario)


def test_asking_spends_no_probe() -> None:
    """And who gets it is not told to be spared."""

    async def scenario() -> None:
        async with fleet_of({Role.UNION: 2}, **AFFINITY) as fleet:
            circuits = fleet.worker.worker._services.circuits
            open_circuits(fleet, "union-1")
            circuits.use(1, 0.0, 0.0)
            open_circuits(fleet, "union-0")
            circuit = circuits.tripped["union-0/0"]
            former = circuit.until
            looks = [await told(fleet, said()) for _ in range(3)]
            assert (circuit.state, circuit.until) == (OPEN, former)
            await fleet.ask(said())
            assert list(circuits.tripped) == ["union-1/0"], "the request was the probe of the other"
            for legs in (*looks, await told(fleet)):
                assert (chosen(legs), excluded(legs[0])) == (["union-0/0"], {"union-1/0": BARRED})

    played(scenario)


def test_circuits_that_are_all_open_count_for_nothing() -> None:
    async def scenario() -> None:
        async with fleet_of(UNIONS, **AFFINITY) as fleet:
            open_circuits(fleet, *fleet.stages)
            before = await told(fleet, said())
            await fleet.ask(said())
            for legs in (before, await told(fleet)):
                assert not excluded(legs[0])
                assert chosen(legs) == chosen(before)

    played(scenario)


def test_who_is_full_could_not_be_chosen() -> None:
    """Whatever it holds; where all are full the request waits."""

    async def scenario() -> None:
        async with fleet_of({Role.UNION: 2}, limits=RequestLimits(union=1), **AFFINITY) as fleet:
            await fleet.ask(said())
            (holder,) = chosen(await told(fleet))
            other = next(f"{name}/0" for name in fleet.stages if f"{name}/0" != holder)
            assert chosen(await told(fleet, said())) == [holder]
            fleet[holder.removesuffix("/0")].hold()
            async with asking(fleet, holder):
                (leg,) = await told(fleet, said())
                assert (chosen([leg]), excluded(leg)) == ([other], {holder: FULL})
                fleet[other.removesuffix("/0")].hold()
                async with asking(fleet, other):
                    assert await waits(fleet)
                assert not await waits(fleet)
                open_circuits(fleet, other.removesuffix("/0"))
                assert await waits(fleet), "for the one whose circuit is closed"
            assert not await waits(fleet)

    played(scenario)


@pytest.mark.parametrize("settings", [AFFINITY, PREFIX, {}], ids=["affinity", "prefix", "load"])
def test_decode_without_room_for_the_kv_cache_could_not_be_chosen(settings: dict[str, object]) -> None:
    """By load alone texts do not look for it."""

    async def scenario() -> None:
        fleet = fleet_of({Role.PREFILL: 1, Role.DECODE: 2}, **settings)
        small = fleet.worker.instances[1]
        assert small.name == "decode-0"
        fleet.worker.instances[1] = msgspec.structs.replace(small, kv_capacity_tokens=64)
        async with fleet:
            prefill, decode = await told(fleet, said())
            assert not excluded(prefill)
            assert excluded(decode) == ({"decode-0/0": WITHOUT_KV} if settings else {})
            await fleet.ask(said())
            assert [f"{name}/0" for name, _ in fleet.sent(Role.DECODE)] == chosen([decode])

    played(scenario)
