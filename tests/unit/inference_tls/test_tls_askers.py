"""All who ask engines beside requests do it by TLS: for metrics, loads and where KV events are published."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from tls_places import Place, new_place

from certificates import OPENSSL, make_certificate
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.coordinator.engine_readings import metrics_text
from pymotor.kv_conductor.discovery import Discovery
from pymotor.kv_conductor.sources import SourceError
from pymotor.node_manager.reporting import engine_client
from worker_in_process import union_at

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture
def place(tmp_path) -> Place:
    return new_place(tmp_path)


@contextmanager
def engine(place: Place, name: str = "localhost", *, by_address: bool = True) -> Iterator[str]:
    """The URL of a simulated engine that wants a certificate."""
    ips = ("127.0.0.1",) if by_address else ()
    own = make_certificate(place.authority, place.directory, "engine", names=(name,), ips=ips)
    words = ["--ssl-certfile", str(own.cert_file), "--ssl-keyfile", str(own.key_file), "--ssl-cert-reqs", "2"]
    words += ["--ssl-ca-certs", str(place.authority.ca_file), "--port", "0"]
    command = [sys.executable, "-m", "pymotor", "sim-engine", "serve", "tiny", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().rpartition(" ")[2].strip()
        finally:
            process.terminate()


async def asked(url: str, tls: ClientTLS | None) -> list[bool]:
    """Whether the Coordinator's supervisor, a NodeManager and the KV Conductor get their answers."""
    found = []
    transport = RenewedTransport(tls, httpx.Limits(max_keepalive_connections=0))
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        try:
            found.append("vllm:" in await metrics_text(client, url))
        except httpx.TransportError:
            found.append(False)
    async with engine_client(tls) as client:
        try:
            found.append((await client.get(f"{url}/health")).status_code == 200)
        except httpx.TransportError:
            found.append(False)
    discovery = Discovery(None, tls)
    instance = union_at(url)
    try:
        await discovery.engine(instance, instance.endpoints[0]).sources()
        found.append(True)
    except SourceError:
        found.append(False)
    finally:
        await discovery.close()
    return found


def test_all_show_the_certificate(place: Place) -> None:
    with engine(place) as url:
        assert asyncio.run(asked(url, ClientTLS(place.files()))) == [True, True, True]
        assert asyncio.run(asked(url, None)) == [False, False, False]


def test_all_look_for_the_agreed_name(place: Place) -> None:
    with engine(place, "engines.example", by_address=False) as url:
        assert asyncio.run(asked(url, ClientTLS(place.files(), peer_name="engines.example"))) == [True, True, True]
        assert asyncio.run(asked(url, ClientTLS(place.files()))) == [False, False, False]


def test_two_owners_of_one_set_both_get_the_new_one(place: Place) -> None:
    """Whoever looks first is told that it is new; the other has to see it too."""

    async def run() -> None:
        tls = ClientTLS(place.files())
        limits = httpx.Limits(max_keepalive_connections=0)
        with engine(place) as url:
            async with (
                httpx.AsyncClient(transport=RenewedTransport(tls, limits), trust_env=False) as one,
                httpx.AsyncClient(transport=RenewedTransport(tls, limits), trust_env=False) as two,
            ):
                for client in (one, two):
                    assert (await client.get(f"{url}/health")).status_code == 200
                place.authority.ca_file.write_bytes(make_other(place))
                for client in (one, two):
                    with pytest.raises(httpx.ConnectError):
                        await client.get(f"{url}/health")

    asyncio.run(run())


def make_other(place: Place) -> bytes:
    """The certificate of another authority."""
    return new_place(place.directory / "other").authority.ca_file.read_bytes()
