"""Clients of the inference port: whoever cannot show what is wanted gets nothing, and does not keep others out."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from functools import partial

import pytest
import uvloop
from tls_places import ANSWER, ASK, REPLY, ask, client_context, new_place, open_files

from certificates import OPENSSL, make_ca, make_certificate, make_crl, make_self_signed
from pymotor.coordinator import worker
from pymotor.coordinator.http.tls_door import TLSDoor
from scripted_engine import ScriptedEngine
from worker_in_process import WorkerInProcess, until

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return new_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def client(place):
    return make_certificate(place.authority, place.directory, "client")


async def answering(engine):
    while True:
        await engine.request()
        await engine.say(REPLY)


def served(settings, scenario):
    """Run `scenario(gateway)` before an engine that answers."""

    async def run():
        async with ScriptedEngine(answering) as engine, WorkerInProcess([engine.port], settings) as gateway:
            await scenario(gateway)

    uvloop.run(run())


def test_a_client_with_a_good_certificate_is_answered_by_tls_13(place, client):
    async def scenario(gateway):
        context = client_context(place, client)
        said = await ask(gateway.port, context)
        assert said.data.endswith(ANSWER)
        assert said.certificate == ssl.PEM_cert_to_DER_cert(place.own.cert_file.read_text())
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, server_hostname="localhost")
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.close()

    served(place.settings(), scenario)


def test_strangers_are_refused(place, client, tmp_path):
    """No certificate, one of another authority, one that vouches for itself, expired, not valid yet, revoked."""
    revoked = make_certificate(place.authority, tmp_path, "revoked")
    crl = make_crl(place.authority, tmp_path / "ca.crl", (revoked,))
    strangers = {
        "none": None,
        "another authority": make_certificate(make_ca(tmp_path / "other"), tmp_path, "other"),
        "self-signed": make_self_signed(tmp_path),
        "expired": make_certificate(place.authority, tmp_path, "expired", expired=True),
        "not yet": make_certificate(place.authority, tmp_path, "not_yet", not_yet=True),
        "revoked": revoked,
    }

    async def scenario(gateway):
        failed = gateway.worker.instruments.failed_handshakes
        for number, (which, shown) in enumerate(strangers.items(), 1):
            said = await ask(gateway.port, client_context(place, shown))
            assert said.data == b"", which
            await until(lambda wanted=number: failed.value == wanted, f"counted: {which}")
        assert (await ask(gateway.port, client_context(place, client))).data.endswith(ANSWER)

    served(place.settings(crl=crl), scenario)


def test_optional_takes_none_but_no_bad_one(place, client, tmp_path):
    other = make_certificate(make_ca(tmp_path / "other"), tmp_path, "other")

    async def scenario(gateway):
        assert (await ask(gateway.port, client_context(place, None))).data.endswith(ANSWER)
        assert (await ask(gateway.port, client_context(place, client))).data.endswith(ANSWER)
        assert (await ask(gateway.port, client_context(place, other))).data == b""

    served(place.settings("optional"), scenario)


def test_none_asks_for_none(place, tmp_path):
    other = make_certificate(make_ca(tmp_path / "other"), tmp_path, "other")

    async def scenario(gateway):
        for shown in (None, other):
            assert (await ask(gateway.port, client_context(place, shown))).data.endswith(ANSWER)

    served(place.settings("none"), scenario)


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2"])
def test_older_versions_are_refused(place, client, version):
    async def scenario(gateway):
        context = client_context(place, client)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion[version]
        said = await ask(gateway.port, context)
        assert said.data == b""
        assert isinstance(said.error, (ssl.SSLError, ConnectionError))

    served(place.settings(), scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" * 50,
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\0" * 64,
        b"\x16\x03\x03\xff\xff" + b"\xff" * 70_000,
        b"\0" * 1000,
    ],
    ids=["plain HTTP", "old plain HTTP", "half a greeting", "SSL 2", "a record too long", "zeros"],
)
def test_what_is_no_greeting_gets_no_word_of_http(place, client, sent, caplog):
    async def scenario(gateway):
        said = await ask(gateway.port, None, sent)
        assert b"HTTP" not in said.data
        assert len(said.data) < 64  # an alert at most
        assert (await ask(gateway.port, client_context(place, client))).data.endswith(ANSWER)

    served(place.settings(), scenario)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) <= 1, "strangers do not fill the log"


def test_tls_at_a_plain_port_is_no_request(place, client):
    async def run():
        async with ScriptedEngine(answering) as engine, WorkerInProcess([engine.port]) as gateway:
            said = await ask(gateway.port, client_context(place, client))
            assert isinstance(said.error, (ssl.SSLError, ConnectionError))

    uvloop.run(run())


def test_silent_clients_make_room_for_others(place, client, monkeypatch):
    """More of them than handshakes may be under way: the oldest are ended, long before their time is over."""
    monkeypatch.setattr(worker, "HANDSHAKES", 8)
    monkeypatch.setattr(worker, "TLSDoor", partial(TLSDoor, handshake_seconds=600.0))

    async def scenario(gateway):
        before = open_files()
        loop = asyncio.get_running_loop()
        silent = [silent_client(gateway.port) for _ in range(40)]
        assert (await ask(gateway.port, client_context(place, client))).data.endswith(ANSWER)
        await asyncio.wait_for(asyncio.gather(*(ended(loop, own) for own in silent[:32])), 60)
        for own in silent:
            own.close()
        await until(lambda: open_files() <= before + 2, "all of their files are closed")

    served(place.settings(), scenario)


def test_a_handshake_under_way_is_waited_for_at_the_end(place, client):
    """And one that does not go on is not waited for longer than idle connections are."""

    async def scenario(gateway):
        silent, slow = silent_client(gateway.port), silent_client(gateway.port)
        await until(lambda: len(gateway.worker._door._greeting) == 2, "both are accepted")
        draining = asyncio.create_task(gateway.worker.drain(60.0))
        await until(lambda: gateway.worker._door._closed, "nobody new is accepted")
        context = client_context(place, client)
        reader, writer = await asyncio.open_connection(sock=slow, ssl=context, server_hostname="localhost")
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(ASK), ASK))
        answer = await asyncio.wait_for(reader.read(), 20)
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(ANSWER)
        writer.close()
        assert await asyncio.wait_for(ended(asyncio.get_running_loop(), silent), 20)
        silent.close()
        await draining

    served(place.settings(), scenario)


def test_silent_clients_have_their_time(place, monkeypatch):
    monkeypatch.setattr(worker, "TLSDoor", partial(TLSDoor, handshake_seconds=0.5))

    async def scenario(gateway):
        own = silent_client(gateway.port)
        assert await asyncio.wait_for(ended(asyncio.get_running_loop(), own), 60)
        own.close()
        await until(lambda: gateway.worker.instruments.failed_handshakes.value == 1, "it is counted")

    served(place.settings(), scenario)


def silent_client(port):
    own = socket.create_connection(("127.0.0.1", port))
    own.setblocking(False)
    return own


async def ended(loop, own):
    """Whether the other end has closed it."""
    try:
        while await loop.sock_recv(own, 4096):
            pass
    except ConnectionError:
        pass
    return True


def test_the_end_of_the_worker_ends_handshakes(place):
    async def run():
        async with ScriptedEngine(answering) as engine:
            async with WorkerInProcess([engine.port], place.settings()) as gateway:
                own = socket.create_connection(("127.0.0.1", gateway.port))
                own.setblocking(False)
                await until(lambda: gateway.worker._door._greeting, "its handshake has begun")
            assert await asyncio.wait_for(ended(asyncio.get_running_loop(), own), 60)
            own.close()

    uvloop.run(run())


def test_secrets_are_in_no_log(place, client, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        served(place.settings(), lambda gateway: ask(gateway.port, client_context(place, client)))
        served(place.settings(), lambda gateway: ask(gateway.port, client_context(place, None)))
    assert "PRIVATE KEY" not in caplog.text
    assert place.own.key_file.read_text().splitlines()[1] not in caplog.text
