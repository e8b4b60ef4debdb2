"""Endpoints that begin to drain while a request is on its way: it sends them nothing new, and they are held as long as
something is yet to be fetched from them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from free_ports import free_port
from played_stages import PlayedFleet, chat, completion, played
from pymotor.fleet import ECDialect, Instance, InstanceState, Role

CAT, DOG = (f"data:image/png;base64,{name}" for name in ("Y2F0", "ZG9n"))
PD = {Role.PREFILL: 1, Role.DECODE: 1}
TEXT = chat()


def drain(fleet: PlayedFleet, *names: str) -> None:
    """Tell the worker that these are draining."""
    fleet.worker.tell_fleet([_draining(one) if one.name in names else one for one in fleet.worker.instances])


def _draining(instance: Instance) -> Instance:
    return msgspec.structs.replace(instance, state=InstanceState.DRAINING)


def in_flight(fleet: PlayedFleet, name: str) -> int:
    return fleet.worker.loads()[list(fleet.stages).index(name)][1]


def held(fleet: PlayedFleet, name: str) -> int:
    return fleet.worker.held()[list(fleet.stages).index(name)]


def refuses(fleet: PlayedFleet, name: str) -> None:
    """Nobody listens where this one should; before the fleet is entered."""
    url = f"http://127.0.0.1:{free_port()}"
    place = list(fleet.stages).index(name)
    instance = fleet.worker.instances[place]
    endpoint = msgspec.structs.replace(instance.endpoints[0], url=url)
    fleet.worker.instances[place] = msgspec.structs.replace(instance, endpoints=(endpoint,))


@pytest.mark.parametrize("closes", [False, True])
def test_a_handoff_goes_on_to_another_decode_only_while_that_one_serves(closes: bool) -> None:
    async def scenario() -> None:
        fleet = PlayedFleet(ECDialect.STORE, {Role.PREFILL: 1, Role.DECODE: 2}, max_retry=0)
        refuses(fleet, "decode-0")
        async with fleet:
            fleet["prefill-0"].hold()
            asking = asyncio.create_task(fleet.ask(TEXT))
            await fleet.until(lambda: fleet["prefill-0"].bodies, "prefill has its leg")
            assert in_flight(fleet, "decode-0") == 1
            if closes:
                drain(fleet, "decode-1")
            fleet["prefill-0"].held.set()
            status, _ = await asking
            assert (status, len(fleet["decode-1"].bodies)) == ((502, 0) if closes else (200, 1))

    played(scenario)


def test_an_item_goes_on_to_no_encoder_that_closed() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.ENCODE: 2, **PD}) as fleet:
            encoders = [fleet["encode-0"], fleet["encode-1"]]
            for encoder in encoders:
                encoder.hold()
                encoder.replies.append((500, {"error": {"message": "broken"}}))
            asking = asyncio.create_task(fleet.ask(chat(CAT)))
            await fleet.until(lambda: any(encoder.bodies for encoder in encoders), "an encoder has the item")
            first, other = sorted(encoders, key=lambda encoder: -len(encoder.bodies))
            drain(fleet, other.name)
            for encoder in encoders:
                encoder.held.set()
            status, _ = await asking
            # The request's next try goes by what there is now: the first encoder, which is well again.
            assert (status, len(first.bodies), len(other.bodies)) == (200, 2, 0)
            assert fleet.outcomes() == {"encoded": 1}

    played(scenario)


def test_an_item_finds_the_encoder_that_came_for_those_that_closed() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.ENCODE: 3, **PD}, encode_fallback="fail") as fleet:
            names = ["encode-0", "encode-1"]
            told = fleet.worker.instances
            fleet.worker.tell_fleet([one for one in told if one.name != "encode-2"])
            for name in names:
                fleet[name].hold()
                fleet[name].replies.append((503, {"error": {"message": "busy"}}))
            asking = asyncio.create_task(fleet.ask(chat(CAT)))
            await fleet.until(lambda: any(fleet[name].bodies for name in names), "an encoder has the item")
            drain(fleet, *names)
            for name in names:
                fleet[name].held.set()
            status, _ = await asking
            assert (status, len(fleet["encode-2"].bodies)) == (200, 1)
            assert sum(len(fleet[name].bodies) for name in names) == 1

    played(scenario)


def test_several_answers_whose_images_are_encoded_first_go_by_the_newest_fleet() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.ENCODE: 1, Role.PREFILL: 2, Role.DECODE: 1}) as fleet:
            fleet["encode-0"].hold()
            asking = asyncio.create_task(fleet.ask(chat(CAT, n=2)))
            await fleet.until(lambda: fleet["encode-0"].bodies, "the encoder has the item")
            drain(fleet, "prefill-0")
            fleet["encode-0"].held.set()
            status, _ = await asking
            assert (status, len(fleet["prefill-0"].bodies), len(fleet["prefill-1"].bodies)) == (200, 0, 2)

    played(scenario)


def test_several_answers_of_a_pair_that_closed_become_one_request_to_a_union() -> None:
    async def scenario() -> None:
        roles = {Role.ENCODE: 1, **PD, Role.UNION: 1}
        async with PlayedFleet(ECDialect.STORE, roles) as fleet:
            told = fleet.worker.instances
            fleet.worker.tell_fleet([one for one in told if one.role is not Role.UNION])
            fleet["encode-0"].hold()
            asking = asyncio.create_task(fleet.ask(chat(CAT, n=2)))
            await fleet.until(lambda: fleet["encode-0"].bodies, "the encoder has the item")
            drain(fleet, "prefill-0", "decode-0")
            fleet["encode-0"].held.set()
            status, body = await asking
            assert (status, body["choices"]) == (200, completion("answer of union-0")["choices"])
            assert [body["n"] for body in fleet["union-0"].bodies] == [2]

    played(scenario)


@pytest.mark.parametrize("dialect", [ECDialect.PULL, ECDialect.PUSH])
@pytest.mark.parametrize(("roles", "reader"), [(PD, "prefill-0"), ({Role.UNION: 1}, "union-0")])
@pytest.mark.parametrize("ends", ["read", "left"])
def test_an_encoder_is_held_until_its_embeddings_are_read(
    dialect: ECDialect, roles: dict[Role, int], reader: str, ends: str
) -> None:
    async def scenario() -> None:
        async with PlayedFleet(dialect, {Role.ENCODE: 1, **roles}) as fleet:
            fleet[reader].hold()
            # Equal items of requests to one consumer are one leg where they are fetched; each request holds it.
            asking = [asyncio.create_task(fleet.ask(chat(CAT, DOG))) for _ in range(2)]
            await fleet.until(lambda: len(fleet[reader].bodies) == 2, "the embeddings are to be read")
            assert in_flight(fleet, "encode-0") == 0
            await fleet.until(lambda: held(fleet, "encode-0") == 4, "two items for each of two requests")
            drain(fleet, "encode-0")
            if ends == "left":
                for one in asking:
                    one.cancel()
                await fleet.until(lambda: not held(fleet, "encode-0"), "nobody will fetch them")
                return
            if roles is PD:
                fleet["decode-0"].hold()
            fleet[reader].held.set()
            await fleet.until(lambda: not held(fleet, "encode-0"), "they were read")
            fleet.stages.get("decode-0", fleet[reader]).held.set()
            assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200]

    played(scenario)


def test_a_store_holds_what_its_encoder_need_not() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.ENCODE: 1, **PD}) as fleet:
            fleet["prefill-0"].hold()
            asking = asyncio.create_task(fleet.ask(chat(CAT)))
            await fleet.until(lambda: fleet["prefill-0"].bodies, "the embeddings are to be read")
            assert (in_flight(fleet, "encode-0"), held(fleet, "encode-0")) == (0, 0)
            fleet["prefill-0"].held.set()
            assert (await asking)[0] == 200

    played(scenario)


def test_prefill_counts_until_decode_has_its_kv_cache() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, PD) as fleet:
            fleet["decode-0"].hold()
            asking = asyncio.create_task(fleet.ask(TEXT))
            await fleet.until(lambda: fleet["decode-0"].bodies, "decode has its leg")
            assert in_flight(fleet, "prefill-0") == 1
            fleet["decode-0"].held.set()
            assert (await asking)[0] == 200

    played(scenario)
