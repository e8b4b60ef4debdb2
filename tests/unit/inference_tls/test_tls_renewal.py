"""Certificates that change while requests run: nothing is dropped, and whoever comes next sees the new ones."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import uvloop
from tls_places import ANSWER, REPLY, ask, client_context, engine_at, engine_context, new_place

from certificates import OPENSSL, make_ca, make_certificate, make_crl
from pymotor.coordinator.http.exchange import HandshakeFailed
from scripted_engine import ScriptedEngine
from worker_in_process import WorkerInProcess, union_at, until

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

STREAMED = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"x"}]}'
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text):
    data = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text
    return b"%x\r\n%b\r\n" % (len(data), data)


DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.fixture
def place(tmp_path):
    return new_place(tmp_path)


def test_a_stream_goes_on_over_a_renewal(place):
    async def run():
        go_on = asyncio.Event()

        async def script(engine):
            while True:
                if b'"stream":true' in await engine.request():
                    await engine.say(HEAD, event(b"before"))
                    await go_on.wait()
                    await engine.say(event(b"after"), DONE)
                else:
                    await engine.say(REPLY)

        async with ScriptedEngine(script) as engine, WorkerInProcess([engine.port], place.settings()) as gateway:
            context = client_context(place, place.own)
            before = place.own.cert_file.read_text()
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", gateway.port, ssl=context, server_hostname="localhost"
            )
            writer.write(POST % (len(STREAMED), STREAMED))
            assert b"before" in await reader.readuntil(b"before")
            old = gateway.worker._tls.context()
            make_certificate(place.authority, place.directory, "gateway")
            await until(lambda: gateway.worker._tls.context() is not old, "the new files are seen")
            said = await ask(gateway.port, context)
            assert said.data.endswith(ANSWER)
            assert said.certificate == ssl.PEM_cert_to_DER_cert(place.own.cert_file.read_text())
            assert said.certificate != ssl.PEM_cert_to_DER_cert(before)
            go_on.set()
            assert b"after" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
            # The old connection takes requests as ever.
            writer.write(POST % (len(STREAMED), STREAMED))
            assert b"after" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
            writer.close()

    uvloop.run(run())


def test_broken_files_change_nothing(place, caplog):
    async def answering(engine):
        while True:
            await engine.request()
            await engine.say(REPLY)

    async def run():
        async with ScriptedEngine(answering) as engine, WorkerInProcess([engine.port], place.settings()) as gateway:
            context = client_context(place, place.own)
            whole = place.own.key_file.read_bytes()
            place.own.key_file.write_bytes(b"nonsense")
            await until(lambda: "new certificates are not taken" in caplog.text, "the broken key is told")
            assert (await ask(gateway.port, context)).data.endswith(ANSWER)
            place.own.key_file.write_bytes(whole)
            old = gateway.worker._tls.context()
            await until(lambda: gateway.worker._tls.context() is not old, "the whole key is taken")
            assert (await ask(gateway.port, context)).data.endswith(ANSWER)
            assert "nonsense" not in caplog.text

    uvloop.run(run())


def test_a_revocation_counts_from_the_next_connection(place, tmp_path):
    async def answering(engine):
        while True:
            await engine.request()
            await engine.say(REPLY)

    client = make_certificate(place.authority, tmp_path, "client")
    crl = make_crl(place.authority, tmp_path / "ca.crl")

    async def run():
        settings = place.settings(crl=crl)
        async with ScriptedEngine(answering) as engine, WorkerInProcess([engine.port], settings) as gateway:
            context = client_context(place, client)
            assert (await ask(gateway.port, context)).data.endswith(ANSWER)
            old = gateway.worker._tls.context()
            make_crl(place.authority, crl, (client,))
            await until(lambda: gateway.worker._tls.context() is not old, "the new list is seen")
            # The client's context keeps the session of before: a resumed one must not get past the list.
            assert (await ask(gateway.port, context)).data == b""

    uvloop.run(run())


def test_another_authority_for_engines(place, tmp_path):
    """Engines move to another authority: both are trusted for a while, then the new one alone."""
    other = make_ca(tmp_path / "other")
    engines = [
        make_certificate(one, tmp_path, f"engine-{number}") for number, one in enumerate((place.authority, other))
    ]
    contexts = [engine_context(place, engine, ssl.CERT_NONE) for engine in engines]
    first, second = place.authority.ca_file.read_bytes(), other.ca_file.read_bytes()

    async def believed(gateway, context):
        async with engine_at(context) as instance:
            gateway.instances[0] = instance
            gateway.tell_fleet([instance])
            (target,) = gateway.worker._targets._by_id.values()
            try:
                connection = await target.pool.connect(60.0)
            except HandshakeFailed:
                return False
            connection.transport.abort()
            return True

    async def run():
        async with WorkerInProcess([union_at("https://127.0.0.1:1")], place.settings()) as gateway:
            tls = gateway.worker._upstream.tls
            assert [await believed(gateway, context) for context in contexts] == [True, False]
            for trusted, wanted in ((first + second, [True, True]), (second, [False, True])):
                old = tls.context()
                place.authority.ca_file.write_bytes(trusted)
                await until(lambda before=old: tls.context() is not before, "the new authorities are seen")
                assert [await believed(gateway, context) for context in contexts] == wanted

    uvloop.run(run())
