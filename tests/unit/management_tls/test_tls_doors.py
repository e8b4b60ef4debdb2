"""A door of a control plane with TLS: who comes in, who does not, and what renewed certificates change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from certificates import OPENSSL, Authority, Certificate, make_ca, make_certificate, make_crl, make_self_signed
from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.control_plane.accepting import TLSAcceptor
from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.certificate_trouble import certificate_trouble, why_not
from pymotor.control_plane.client_certificate import shows_certificate
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.tls import ClientTLS, TLSFiles
from pymotor.control_plane.token_gate import TokenGate

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

TOKEN = "a-token-for-these-tests-only"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PASSWORD = "a-password-that-is-nowhere-in-a-log"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_ca(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_ca(tmp_path_factory.mktemp("other") / "ca", "another authority")


class Door:
    """A server behind a token, and what is asked of it."""

    def __init__(self, directory: Path, authority: Authority, client_auth: str = "required") -> None:
        self.directory = directory
        self.authority = authority
        make_certificate(authority, directory, "server", password=PASSWORD)
        (directory / "password").write_text(PASSWORD)
        (directory / "password").chmod(0o600)
        shutil.copy(authority.ca_file, directory / "ca.crt")
        make_crl(authority, directory / "ca.crl")
        names = ("ca.crt", "server.crt", "server.key", "password", "ca.crl")
        self.files = TLSFiles(*(str(directory / name) for name in names))
        self.tls = PlaneTLS(self.files, client_auth).server()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        gate = TokenGate(self._answer, ClusterToken(TOKEN), ("/liveness",), lambda: PlainTextResponse("token", 401))
        self.server = AdminServer(gate, graceful_seconds=1, tls=self.tls)
        self.serving = asyncio.create_task(self.server.serve_on(self.listening))

    async def _answer(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        request = Request(scope, receive)
        if request.url.path == "/watch":
            self.asked.set()
            await self.go_on.wait()
        answer: Response = PlainTextResponse("certificate" if shows_certificate(scope) else "token")
        await answer(scope, receive, send)

    def trusting(self, shown: Certificate | None = None, ca_file: Path | None = None) -> ClientTLS:
        mine = (str(shown.cert_file), str(shown.key_file)) if shown is not None else ("", "")
        return ClientTLS(TLSFiles(str(ca_file or self.authority.ca_file), *mine))

    async def ask(self, tls: ClientTLS, path: str = "/", **more: object) -> httpx.Response:
        async with asking_client(tls, timeout=60) as client:
            return await client.get(self.url + path, **more)  # type: ignore[arg-type]

    async def refusal(self, tls: ClientTLS) -> str:
        """Why the connection does not come about, token or not."""
        with pytest.raises(httpx.TransportError) as refused:
            await self.ask(tls, headers=BEARER)
        return why_not(refused.value)

    async def trouble(self, tls: ClientTLS) -> str:
        """The same where it may come about: then empty."""
        try:
            await self.ask(tls, headers=BEARER)
        except httpx.TransportError as error:
            return why_not(error)
        return ""

    async def serial(self) -> str:
        """Of the certificate that a new connection is shown."""
        context = self.trusting().context()
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert()
        writer.transport.abort()
        return str(shown["serialNumber"])

    async def until_serial_changes(self, former: str) -> None:
        """Looks are at most one in a second."""
        ends = time.monotonic() + 60
        while await self.serial() == former:
            assert time.monotonic() < ends, "new connections have the former certificate"
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        self.go_on.set()
        self.server.finish()
        await self.serving


@contextlib.asynccontextmanager
async def opened(directory: Path, authority: Authority, client_auth: str = "required") -> AsyncIterator[Door]:
    door = Door(directory / "door", authority, client_auth)
    try:
        yield door
    finally:
        await door.close()


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture):  # type: ignore[no-untyped-def]
    caplog.set_level(logging.DEBUG)
    yield
    assert PASSWORD not in caplog.text
    assert TOKEN not in caplog.text


async def test_a_certificate_counts_like_the_token(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority) as door:
        known = door.trusting(make_certificate(authority, tmp_path, "operator"))
        answer = await door.ask(known)
        assert (answer.status_code, answer.text) == (200, "certificate")


async def test_a_stolen_token_without_a_certificate_opens_nothing(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority) as door:
        assert await door.refusal(door.trusting()) == (
            "it wants a certificate, and none is shown: name cert_file and key_file"
        )


async def test_strangers_certificates_open_nothing(
    tmp_path: Path, authority: Authority, other_authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, authority) as door:
        for certificate in (make_certificate(other_authority, tmp_path, "stranger"), make_self_signed(tmp_path)):
            assert "authority" in await door.refusal(door.trusting(certificate))
        assert "is not let in: its certificate: " in caplog.text


@pytest.mark.parametrize("when", ["expired", "not_yet"])
async def test_a_client_certificate_out_of_its_time_opens_nothing(
    tmp_path: Path, authority: Authority, when: str
) -> None:
    made = make_certificate(authority, tmp_path, "client", **{when: True})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_file)
    context.load_cert_chain(made.cert_file, made.key_file)
    async with opened(tmp_path, authority) as door:
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as client:
            with pytest.raises((httpx.TransportError, ssl.SSLError)) as refused:
                await client.get(door.url, headers=BEARER)
        expected = "has expired" if when == "expired" else "refuses the certificate"
        assert expected in certificate_trouble(refused.value)


async def test_a_revoked_certificate_opens_nothing_from_the_next_look_on(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority) as door:
        shown = make_certificate(authority, tmp_path, "client")
        known = door.trusting(shown)
        assert (await door.ask(known)).status_code == 200
        make_crl(authority, door.directory / "ca.crl", (shown,))
        ends = time.monotonic() + 60
        while (trouble := await door.trouble(known)) == "":
            assert time.monotonic() < ends, "the revoked certificate still opens the door"
        assert trouble == "the certificate that is shown to it is revoked"


async def test_optional_lets_in_without_a_certificate_but_not_without_token(
    tmp_path: Path, authority: Authority, other_authority: Authority
) -> None:
    async with opened(tmp_path, authority, "optional") as door:
        stranger = door.trusting()
        assert (await door.ask(stranger)).status_code == 401
        assert (await door.ask(stranger, "/liveness")).status_code == 200
        assert (await door.ask(stranger, headers=BEARER)).text == "token"
        assert (await door.ask(door.trusting(make_certificate(authority, tmp_path, "known")))).text == "certificate"
        bad = make_certificate(other_authority, tmp_path, "bad")
        assert "authority" in await door.refusal(door.trusting(bad))


async def test_none_asks_for_no_certificate_and_believes_none(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority, "none") as door:
        known = door.trusting(make_certificate(authority, tmp_path, "known"))
        assert (await door.ask(known)).status_code == 401
        assert (await door.ask(known, headers=BEARER)).text == "token"


async def test_what_is_passed_on_counts_as_its_client_does(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority, "optional") as door:
        standby = door.trusting(make_certificate(authority, tmp_path, "standby"))
        assert (await door.ask(standby, headers={"X-PyMotor-Passed-On": "1"})).status_code == 401
        assert (await door.ask(standby, headers={"X-PyMotor-Passed-On": "certificate"})).text == "certificate"
        # Only who shows a certificate is believed.
        claimed = {"X-PyMotor-Passed-On": "certificate"}
        assert (await door.ask(door.trusting(), headers=claimed)).status_code == 401


async def test_no_older_tls_and_no_plain_http(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority) as door:
        shown = make_certificate(authority, tmp_path, "client")
        older = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        older.load_verify_locations(authority.ca_file)
        older.load_cert_chain(shown.cert_file, shown.key_file)
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            await asyncio.open_connection("127.0.0.1", door.port, ssl=older)
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            said = await asyncio.wait_for(reader.read(), 60)
            assert b"HTTP/" not in said
        writer.close()
        assert (await door.ask(door.trusting(shown))).status_code == 200


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n", bytes(64)],
    ids=["HTTP", "as to a proxy", "a method that OpenSSL does not know", "zeros"],
)
async def test_who_speaks_no_tls_is_not_kept_waiting(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    """It has longer than this test for its handshake."""
    caplog.set_level(logging.INFO)
    async with opened(tmp_path, authority) as door:
        listening = socket.create_server(("127.0.0.1", 0))
        acceptor = TLSAcceptor(listening, door.tls, asyncio.Protocol, handshake_seconds=3600.0)
        accepting = asyncio.create_task(acceptor.run())
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 60) == b""
            assert "a connection of 127.0.0.1 is not let in: " in caplog.text
        finally:
            writer.close()
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            listening.close()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"names": ("other.example",), "ips": ()}, "its certificate is not taken: IP address mismatch"),
        ({"ips": ("127.0.0.2",)}, "its certificate is not taken: IP address mismatch"),
    ],
)
async def test_a_server_of_another_name_is_not_asked(
    tmp_path: Path, authority: Authority, made: dict[str, tuple[str, ...]], words: str
) -> None:
    async with opened(tmp_path, authority, "none") as door:
        former, ends = await door.serial(), time.monotonic() + 60
        make_certificate(authority, door.directory, "server", password=PASSWORD, **made)  # type: ignore[arg-type]
        while (trouble := await door.trouble(door.trusting())) == "":
            assert time.monotonic() < ends, former
        assert trouble.startswith(words)


async def test_a_server_of_another_authority_is_not_asked(
    tmp_path: Path, authority: Authority, other_authority: Authority
) -> None:
    async with opened(tmp_path, authority, "none") as door:
        words = await door.refusal(door.trusting(ca_file=other_authority.ca_file))
        assert words.startswith("its certificate is not taken: ")


async def test_a_watch_goes_on_while_certificates_are_renewed(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority) as door:
        shown = make_certificate(authority, tmp_path, "client")
        tls = door.trusting(shown)
        async with asking_client(tls, timeout=60) as client:
            watching = asyncio.create_task(client.get(f"{door.url}/watch"))
            await door.asked.wait()
            former = await door.serial()
            make_certificate(authority, door.directory, "server", password=PASSWORD)
            make_certificate(authority, tmp_path, "client")  # the client's own is renewed too
            await door.until_serial_changes(former)
            assert (await client.get(f"{door.url}/liveness")).status_code == 200
            assert not watching.done()
            door.go_on.set()
            assert (await watching).text == "certificate"


async def test_broken_new_files_change_nothing(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, authority) as door:
        known = door.trusting(make_certificate(authority, tmp_path, "client"))
        former = await door.serial()
        (door.directory / "server.key").write_text("no key")
        ends = time.monotonic() + 60
        while "new certificates are not taken" not in caplog.text:
            assert time.monotonic() < ends
            assert (await door.ask(known)).status_code == 200
        assert await door.serial() == former
        make_certificate(authority, door.directory, "server", password=PASSWORD)
        await door.until_serial_changes(former)
        assert caplog.text.count("new certificates are not taken") == 1


async def test_handshakes_that_never_end_keep_nobody_out(tmp_path: Path, authority: Authority) -> None:
    async with opened(tmp_path, authority) as door:
        silent = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(64)]
        for _, writer in silent[:32]:
            writer.write(os.urandom(64))
        known = door.trusting(make_certificate(authority, tmp_path, "client"))
        assert (await door.ask(known)).status_code == 200
        for _, writer in silent:
            writer.transport.abort()
