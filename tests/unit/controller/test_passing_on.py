"""Behind one Service: a Controller that stands by is ready, and answers with what the leader answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio

from model_node import ModelNode
from pymotor.control_plane import ClusterToken
from pymotor.controller.file_lease import FileLease
from pymotor.controller.leadership import Leadership
from pymotor.controller.messages_app import LONGEST_BODY
from pymotor.controller.oversight import Oversight, OversightSettings
from pymotor.fleet import ReportReply, decode_message, encode_message
from served_controller import BEARER, TOKEN, ServedController


class Two:
    """The one that leads, and the one that is asked."""

    def __init__(self, leader: ServedController, standby: ServedController, client: httpx.AsyncClient) -> None:
        self.leader = leader
        self.standby = standby
        self.client = client

    async def ask(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        return await self.client.request(method, self.standby.url + path, content=body, headers=BEARER)


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    leader, standby = ServedController(tmp_path, "first"), ServedController(tmp_path, "second")
    await leader.lead()
    assert not await standby.leadership.try_to_lead()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        yield Two(leader, standby, client)
    await standby.end()
    await leader.end()


async def test_a_standby_is_ready_and_reports_reach_the_leader(two: Two) -> None:
    assert (await two.ask("GET", "/readiness")).json() == {"ready": True, "leader": two.leader.url, "stands_by": True}
    node = ModelNode("a")
    answer = await two.ask("POST", "/nodes/report", encode_message(node.report()))
    assert answer.status_code == 200
    node.take(decode_message(answer.content, ReportReply))
    assert "a" in two.leader.service.term().state.book.nodes
    listed = await two.ask("GET", "/instances?role=union")
    told = await two.client.get(f"{two.leader.url}/instances?role=union", headers=BEARER)
    here, there = listed.json(), told.json()
    for said in (here, there):
        for instance in said["instances"]:
            # Told by the wall clock: it moves when the process stood still in between, which steady time leaves out.
            del instance["since"]
    assert here == there


async def test_without_the_token_nothing_is_passed_on(two: Two) -> None:
    answer = await two.client.get(f"{two.standby.url}/instances")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_what_is_too_long_is_refused_here(two: Two) -> None:
    assert (await two.ask("POST", "/nodes/report", b"x" * (LONGEST_BODY + 1))).status_code == 413


async def test_a_client_that_goes_takes_the_leaders_connection_with_it(tmp_path: Path) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()
        writer.close()

    silent = await asyncio.start_server(never_answers, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    assert await Leadership(FileLease(tmp_path), "silent", url, 60.0).try_to_lead()
    standby = ServedController(tmp_path, "second")
    assert not await standby.leadership.try_to_lead()
    async with silent, httpx.AsyncClient(trust_env=False, timeout=60) as client:
        asking = asyncio.create_task(client.get(f"{standby.url}/instances", headers=BEARER))
        await asyncio.wait_for(asked.wait(), 60)
        asking.cancel()
        await asyncio.wait_for(left.wait(), 60)
        await standby.end()


async def test_a_leader_that_is_gone_is_said_and_not_ready_for_ever(two: Two) -> None:
    await two.leader.end()
    answer = await two.ask("GET", "/instances")
    assert answer.status_code == 503
    assert "does not lead" in answer.json()["error"]
    await two.leader.leadership.hand_back()
    await two.standby.lead()
    assert (await two.ask("GET", "/instances")).status_code == 200


async def test_two_that_take_each_other_for_the_leader_do_not_go_round(two: Two) -> None:
    passed_on = {**BEARER, "X-PyMotor-Passed-On": "1"}
    answer = await two.client.get(f"{two.standby.url}/instances", headers=passed_on)
    assert answer.status_code == 503
    assert answer.json()["leader"] == two.leader.url


async def test_alarms_of_the_leader_are_told_at_the_standbys_port(tmp_path: Path) -> None:
    ports = [socket.create_server(("127.0.0.1", 0))]
    number = ports[0].getsockname()[1]
    ports.append(socket.create_server(("127.0.0.2", number)))
    leader, standby = ServedController(tmp_path, "first"), ServedController(tmp_path, "second", "127.0.0.2")
    await leader.lead()
    assert not await standby.leadership.try_to_lead()
    async with contextlib.AsyncExitStack() as running:
        for one, port in zip((leader, standby), ports, strict=True):
            oversight = Oversight(one.service, OversightSettings(), {}, passes_on=True)
            await running.enter_async_context(oversight.running(port, ClusterToken(TOKEN)))
        client = await running.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))
        answer = await client.get(f"http://127.0.0.2:{number}/observability/alarms")
        assert answer.status_code == 200
        assert answer.json()["message"] == "Success"
    await standby.end()
    await leader.end()
