"""What a trail says of a request: each leg and each wait once, with its times, its end and why it went there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from played_stages import PlayedFleet, chat, played
from pymotor.coordinator.following import FollowedRequest
from pymotor.coordinator.settings import DashboardSettings
from pymotor.coordinator.trail import Step, Trail
from pymotor.fleet import ECDialect, Role
from scripted_engine import EngineConnection, ScriptedEngine, StrictClient
from worker_in_process import MODEL, WorkerInProcess, until

ALL = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2}
IMAGES = ("data:image/png;base64,AAAA", "data:image/png;base64,BBBB")


class Everything:
    """Follows all requests, or none."""

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted
        self.seen: list[FollowedRequest] = []

    def wants(self, now: float) -> bool:
        return self.wanted

    def over(self, followed: FollowedRequest) -> None:
        self.seen.append(followed)

    def trail(self) -> Trail:
        (followed,) = self.seen
        return followed.trail


def legs(trail: Trail) -> list[tuple[str, str]]:
    """The steps' names, and how they ended, waits apart."""
    return [(step.leg, step.outcome) for step in trail.steps if step.endpoint]


def in_order(step: Step) -> bool:
    return 0 < step.began <= step.sent <= step.ended


async def followed_chat(fleet: PlayedFleet, body: dict[str, Any], follower: Everything) -> int:
    fleet.worker.worker.follow(follower)
    status, _ = await fleet.ask(body)
    await until(lambda: follower.seen, "the request is over")
    return status


def test_every_leg_is_a_step() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, ALL) as fleet:
            everything = Everything()
            assert await followed_chat(fleet, chat(*IMAGES), everything) == 200
            trail = everything.trail()
            assert sorted(legs(trail)) == [("decode", ""), ("encode", ""), ("encode", ""), ("prefill", "")]
            steps = [step for step in trail.steps if step.endpoint]
            assert all(in_order(step) for step in steps)
            assert {step.item for step in steps if step.leg == "encode"} == {"0", "1"}
            assert all(step.status == 200 and step.answer_bytes > 50 for step in steps)
            assert all(step.request_bytes > 50 and len(step.leg_id) == 32 for step in steps)
            assert [step.leg for step in trail.steps if not step.endpoint] == ["placement", "queue"]
            assert all(step.began <= step.ended for step in trail.steps)
            decode = next(step for step in steps if step.leg == "decode")
            assert decode.endpoint in {"decode-0/0", "decode-1/0"}
            assert decode.instance == decode.endpoint[:-2]
            assert decode.server.startswith(b"127.0.0.1:")
            assert decode.why is not None
            first, second = decode.why
            assert (first.endpoint, first.chosen, first.excluded) == (decode.endpoint, True, False)
            assert (second.chosen, second.excluded) == (False, False)

    played(scenario)


def test_a_further_try_is_a_further_step_and_says_who_was_left_out() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.PREFILL: 2, Role.DECODE: 1}) as fleet:
            for name in ("prefill-0", "prefill-1"):
                fleet[name].replies.append((500, {"error": "broken"}))
            everything = Everything()
            status = await followed_chat(fleet, chat(), everything)
            trail = everything.trail()
            found = legs(trail)
            assert found[0] == ("prefill", "status_500")
            assert found[1] == ("prefill", "status_500")
            assert trail.steps[2].status == 500
            assert status in (200, 502)
            assert sum(step.leg == "pause" for step in trail.steps) >= 1
            again = [step for step in trail.steps if step.leg == "prefill"][1]
            assert again.why is not None
            assert [candidate.excluded for candidate in again.why] == [False, True]

    played(scenario)


def test_an_endpoint_that_cannot_be_reached() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.UNION: 1}, max_retry=0, transport_max_retry=0) as fleet:
            fleet["union-0"].server._listener.close()
            everything = Everything()
            assert await followed_chat(fleet, chat(), everything) == 502
            step = next(step for step in everything.trail().steps if step.endpoint)
            assert (step.outcome, step.sent, step.status) == ("connect", 0.0, 0)
            assert step.ended
            assert everything.seen[0].reason

    played(scenario)


def test_nobody_wants_it() -> None:
    async def scenario() -> None:
        unseen = DashboardSettings(enable=False)
        async with PlayedFleet(ECDialect.STORE, {Role.UNION: 1}, dashboard=unseen) as fleet:
            nobody = Everything(wanted=False)
            fleet.worker.worker.follow(nobody)
            assert (await fleet.ask(chat()))[0] == 200
            later = Everything()
            assert await followed_chat(fleet, chat(), later) == 200
            # What one wants is shown to all: the first request was to nobody.
            assert len(nobody.seen) == 1

    played(scenario)


def event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    data = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("breaks", [False, True])
def test_streams_have_the_moment_of_their_first_content(breaks: bool) -> None:
    async def script(connection: EngineConnection) -> None:
        await connection.request()
        await connection.say(HEAD, event("a"), event("b"))
        if breaks:
            connection.reset()
        else:
            await connection.say(DONE)

    async def scenario() -> None:
        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port]) as worker:
            everything = Everything()
            worker.worker.follow(everything)
            body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True, "n": 2}
            async with StrictClient(worker.port) as client:
                await client.ask(json.dumps(body).encode())
            await until(lambda: everything.seen, "the request is over")
            (step,) = [step for step in everything.trail().steps if step.endpoint]
            assert step.sent <= step.content <= step.ended
            assert step.outcome == ("reset" if breaks else "")
            assert step.status == 200

    played(scenario)


def test_a_client_that_goes_away_cancels_its_leg() -> None:
    async def scenario() -> None:
        async with PlayedFleet(ECDialect.STORE, {Role.UNION: 1}) as fleet:
            fleet["union-0"].hold()
            everything = Everything()
            fleet.worker.worker.follow(everything)
            asking = asyncio.ensure_future(fleet.ask(chat()))
            await until(lambda: fleet["union-0"].bodies, "the engine has the request")
            asking.cancel()
            await until(lambda: everything.seen, "the request is over")
            assert everything.seen[0].status == 499
            assert legs(everything.trail()) == [("union", "cancelled")]

    played(scenario)
