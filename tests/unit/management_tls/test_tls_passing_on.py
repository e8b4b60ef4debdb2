"""Two Controllers behind one Service, with TLS: the standby asks the leader under the Service's name."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from certificates import OPENSSL, Authority, make_ca, make_certificate
from pymotor.control_plane import AdminServer
from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.client_certificate import PASSED_ON, shows_certificate
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.tls import ClientTLS, TLSFiles
from pymotor.controller.passing_on import LeaderTLS, PassingOn
from served_controller import BEARER, ServedController

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

NAME = "controller.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_ca(tmp_path_factory.mktemp("authority") / "ca")


def plane(authority: Authority, directory: Path, client_auth: str) -> PlaneTLS:
    made = make_certificate(authority, directory, "pod", names=(NAME,), ips=())
    files = TLSFiles(str(authority.ca_file), str(made.cert_file), str(made.key_file))
    return PlaneTLS(files, client_auth)


@contextlib.asynccontextmanager
async def two(
    directory: Path, both: PlaneTLS, leader_name: str = NAME
) -> AsyncIterator[tuple[ServedController, ServedController]]:
    """Their certificate names the Service and no address."""
    (directory / "lease").mkdir()
    leader, standby = (
        ServedController(directory / "lease", name, plane=both, leader_name=leader_name) for name in ("first", "second")
    )
    await leader.lead()
    assert not await standby.leadership.try_to_lead()
    try:
        yield leader, standby
    finally:
        await standby.end()
        await leader.end()


def dialling(authority: Authority, both: PlaneTLS, *, shows: bool) -> httpx.AsyncClient:
    files = both.files if shows else TLSFiles(str(authority.ca_file), "", "")
    return asking_client(ClientTLS(files, peer_name=NAME), timeout=60)


async def test_the_standby_knows_the_leader_by_the_services_name(tmp_path: Path, authority: Authority) -> None:
    both = plane(authority, tmp_path, "required")
    async with two(tmp_path, both) as (leader, standby), dialling(authority, both, shows=True) as client:
        assert (await client.get(f"{standby.url}/readiness")).json()["leader"] == leader.url
        assert (await client.get(f"{standby.url}/instances?role=union")).status_code == 200


async def test_a_leader_that_has_not_that_name_is_not_asked(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    both = plane(authority, tmp_path, "required")
    async with two(tmp_path, both, "another.example") as (_, standby), dialling(authority, both, shows=True) as client:
        assert (await client.get(f"{standby.url}/instances?role=union")).status_code == 503
    assert "nothing is passed on to the Controller that leads" in caplog.text
    assert "Hostname mismatch" in caplog.text


async def test_the_standbys_certificate_lets_no_stranger_in(tmp_path: Path, authority: Authority) -> None:
    both = plane(authority, tmp_path, "optional")
    async with two(tmp_path, both) as (_, standby), dialling(authority, both, shows=False) as stranger:
        assert (await stranger.get(f"{standby.url}/instances?role=union")).status_code == 401
        assert (await stranger.get(f"{standby.url}/instances?role=union", headers=BEARER)).status_code == 200


async def test_what_has_no_gate_tells_the_leader_who_has_asked(tmp_path: Path, authority: Authority) -> None:
    both = plane(authority, tmp_path, "optional")
    heard: list[bytes] = []

    async def leads(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend(value for name, value in scope["headers"] if name == PASSED_ON)
        await PlainTextResponse(str(shows_certificate(scope)))(scope, receive, send)

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    urls = [f"https://127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    passing = PassingOn(
        PlainTextResponse("nobody leads"),
        lambda: urls[0],
        kept=(),
        longest_body=10,
        tls=LeaderTLS(both.client(), NAME),
    )
    servers = [AdminServer(app, graceful_seconds=1, tls=both.server()) for app in (leads, passing)]
    serving = [asyncio.create_task(one.serve_on(door)) for one, door in zip(servers, sockets, strict=True)]
    try:
        for shows in (False, True):
            async with dialling(authority, both, shows=shows) as client:
                forged = {"X-PyMotor-Passed-On": "certificate"}
                assert (await client.get(urls[1])).text == str(shows)
                assert (await client.get(urls[1], headers=forged)).text == "nobody leads"
    finally:
        for server in servers:
            server.finish()
        await asyncio.gather(*serving)
    assert heard == [b"1", b"certificate"]
