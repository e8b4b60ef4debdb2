"""Engines at https addresses: asked only where their certificate is good for the address and ours for them."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl

import pytest
import uvloop
from tls_places import ANSWER, ask, client_context, engine_at, engine_context, new_place

from certificates import OPENSSL, make_ca, make_certificate, make_crl
from pymotor.coordinator.settings import Settings
from worker_in_process import WorkerInProcess, union_at

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return new_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def engine(place, tmp_path):
    return make_certificate(place.authority, tmp_path, "engine")


def answered(place, settings, *contexts):
    """What a client gets with engines of these contexts, one after the other, and the counted reasons."""

    async def run():
        found = []
        for context in contexts:
            async with engine_at(context) as instance, WorkerInProcess([instance], settings) as gateway:
                said = await ask(gateway.port, client_context(place, place.own) if settings.tls else None)
                counted = gateway.worker.instruments.registry.dump()
                reasons = [str(one) for one in [counted] if "tls" in str(one)]
                found.append((said.data, reasons))
                await gateway.until_idle()
        return found

    return uvloop.run(run())


def refused(caplog, place, context, words, settings=None):
    """The engine is not asked; the log says why and the client no more than that."""
    ((data, reasons),) = answered(place, settings or place.settings(), context)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502"), data
    error = json.loads(body)["error"]
    assert "cannot be reached by TLS" in error["message"]
    assert reasons, "counted as tls"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("no TLS with 127.0.0.1:" in one and words in one for one in told), told


def test_a_good_engine_is_asked(place, engine):
    ((data, _),) = answered(place, place.settings(), engine_context(place, engine))
    assert data.endswith(ANSWER)


def test_an_engine_that_wants_no_certificate_is_asked(place, engine):
    ((data, _),) = answered(place, place.settings(), engine_context(place, engine, ssl.CERT_NONE))
    assert data.endswith(ANSWER)


def test_one_connection_serves_several_requests(place, engine):
    async def run():
        context = engine_context(place, engine)
        async with engine_at(context) as instance, WorkerInProcess([instance], place.settings()) as gateway:
            for _ in range(5):
                assert (await ask(gateway.port, client_context(place, place.own))).data.endswith(ANSWER)
            (target,) = gateway.worker._targets._by_id.values()
            assert len(target.pool._idle) == 1

    uvloop.run(run())


def test_an_engine_of_another_authority(place, tmp_path, caplog):
    other = make_certificate(make_ca(tmp_path / "other"), tmp_path)
    refused(caplog, place, engine_context(place, other), "the engine's certificate is not believed")


@pytest.mark.parametrize("names", [("localhost",), ("127.0.0.1",)])
def test_an_engine_whose_certificate_does_not_name_its_address(place, tmp_path, caplog, names):
    """An address that is written as a name is no address."""
    wrong = make_certificate(place.authority, tmp_path, names=names, ips=("127.0.0.2",))
    refused(caplog, place, engine_context(place, wrong), "IP address mismatch")


def test_an_engine_by_its_agreed_name(place, tmp_path, caplog):
    agreed = make_certificate(place.authority, tmp_path, names=("engines.example",), ips=())
    settings = place.settings(peer_name="engines.example")
    ((data, _),) = answered(place, settings, engine_context(place, agreed))
    assert data.endswith(ANSWER)
    refused(caplog, place, engine_context(place, place.own), "mismatch", settings)


@pytest.mark.parametrize(("when", "words"), [("expired", "has expired"), ("not_yet", "not yet valid")])
def test_an_engine_whose_certificate_is_out_of_its_time(place, tmp_path, caplog, when, words):
    bad = make_certificate(place.authority, tmp_path, **{when: True})
    refused(caplog, place, engine_context(place, bad), words)


def test_an_engine_whose_certificate_is_revoked(place, tmp_path, engine, caplog):
    crl = make_crl(place.authority, tmp_path / "ca.crl", (engine,))
    refused(caplog, place, engine_context(place, engine), "revoked", place.settings(crl=crl))


def test_an_engine_that_does_not_believe_the_gateway(place, tmp_path, engine, caplog):
    other = make_ca(tmp_path / "other")
    context = engine_context(place, engine, ssl.CERT_NONE)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(other.ca_file)
    refused(caplog, place, context, "does not take the gateway's certificate")


def test_an_engine_that_speaks_no_tls(place, caplog):
    """It takes the greeting for a bad request."""

    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async def run():
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        instance = union_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with WorkerInProcess([instance], place.settings()) as gateway:
            said = await ask(gateway.port, client_context(place, place.own))
            server.close()
            assert b"cannot be reached by TLS" in said.data

    uvloop.run(run())
    assert "the engine does not speak TLS 1.3" in caplog.text


def test_an_engine_that_speaks_old_tls_only(place, engine, caplog):
    context = engine_context(place, engine)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(caplog, place, context, "does it speak TLS 1.3?")


def test_an_https_engine_where_tls_is_off(place, engine, caplog):
    settings = Settings(max_retry=0, transport_max_retry=0, retry_delay=0.0)
    ((data, _),) = answered(place, settings, engine_context(place, engine))
    assert data.startswith(b"HTTP/1.1 502")


def test_an_engine_that_ends_a_good_connection_is_no_failure_of_certificates(place, engine):
    """It has seen the request, so the failure is not as harmless as that of a handshake."""

    async def rude(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def run():
        server = await asyncio.start_server(rude, "127.0.0.1", 0, ssl=engine_context(place, engine))
        instance = union_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with WorkerInProcess([instance], place.settings()) as gateway:
            said = await ask(gateway.port, client_context(place, place.own))
            server.close()
            assert b"connection closed before the reply was whole" in said.data

    uvloop.run(run())
