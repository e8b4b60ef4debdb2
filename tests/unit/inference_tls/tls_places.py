"""An authority, what it signed, a gateway with it, and clients and engines that speak TLS as a test wants."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from certificates import Authority, Certificate, make_ca, make_certificate
from pymotor.control_plane.tls import TLSFiles
from pymotor.coordinator.settings import InferenceTLS, Settings
from pymotor.fleet import Instance
from worker_in_process import union_at

ASK = b'{"model":"tiny","messages":[{"role":"user","content":"x"}]}'
ANSWER = b'{"choices":[{"message":{"role":"assistant","content":"x"}}]}'
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


@dataclass(frozen=True)
class Place:
    """Files of one test."""

    directory: Path
    authority: Authority
    own: Certificate
    """The gateway's."""

    def files(self, crl: Path | str = "") -> TLSFiles:
        """The gateway's files."""
        own = self.own
        return TLSFiles(str(self.authority.ca_file), str(own.cert_file), str(own.key_file), "", str(crl))

    def settings(self, client_auth: str = "required", crl: Path | str = "", peer_name: str = "") -> Settings:
        """Of a gateway that tries nothing twice."""
        tls = InferenceTLS(self.files(crl), client_auth, peer_name)  # type: ignore[arg-type]
        return Settings(max_retry=0, transport_max_retry=0, retry_delay=0.0, tls=tls)


def new_place(directory: Path) -> Place:
    """A new authority and a gateway's certificate in `directory`."""
    authority = make_ca(directory / "ca")
    return Place(directory, authority, make_certificate(authority, directory, "gateway"))


def client_context(place: Place, shown: Certificate | None) -> ssl.SSLContext:
    """Trusts the place's authority."""
    context = ssl.create_default_context(cafile=str(place.authority.ca_file))
    if shown is not None:
        context.load_cert_chain(shown.cert_file, shown.key_file)
    return context


@dataclass
class Said:
    """What a server answered before the end of the connection."""

    data: bytes
    error: BaseException | None = None
    certificate: bytes = b""


async def ask(port: int, context: ssl.SSLContext | None, sent: bytes = b"", name: str = "localhost") -> Said:
    """One request on a new connection, by TLS with a context; `sent`: a POST of `ASK` by default."""
    body = sent or (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(ASK), ASK)
    )
    said = Said(b"")
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name if context is not None else None
        )
    except OSError as error:
        said.error = error
        return said
    try:
        if context is not None:
            said.certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(body)
        while data := await asyncio.wait_for(reader.read(65536), 60):
            said.data += data
    except OSError as error:
        said.error = error
    finally:
        writer.close()
    return said


@asynccontextmanager
async def engine_at(context: ssl.SSLContext | None) -> AsyncIterator[Instance]:
    """A union engine that answers every request alike, by TLS with a context."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(len(ASK))
                writer.write(REPLY)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield union_at(f"https://127.0.0.1:{port}")
    finally:
        server.close()


def engine_context(place: Place, shown: Certificate, requirement: ssl.VerifyMode = ssl.CERT_REQUIRED) -> ssl.SSLContext:
    """An engine's, as uvicorn makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert_file, shown.key_file)
    context.verify_mode = requirement
    if requirement is not ssl.CERT_NONE:
        context.load_verify_locations(place.authority.ca_file)
    return context


def open_files() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/fd"))
