"""Ports are taken from nobody and shared with nobody who is not ours."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from free_ports import free_port
from pymotor.control_plane.ports import PortError, hold_shared, listen_alone, url_of

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize("take", [hold_shared, listen_alone])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("address", [LOOPBACK, "0.0.0.0"])
def test_a_port_that_somebody_listens_on_is_refused(take: object, shared: bool, address: str) -> None:
    assert callable(take)
    with socket.socket() as taken:
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((address, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=rf"port {port} is in use; .* choose another port with --port"):
            take(LOOPBACK, port, "--port")


@pytest.mark.parametrize("take", [hold_shared, listen_alone])
def test_a_port_that_is_held_is_refused_before_anyone_listens(take: object) -> None:
    assert callable(take)
    with hold_shared(LOOPBACK, 0, "--port") as held, pytest.raises(PortError):
        take(LOOPBACK, held.getsockname()[1], "--port")


def test_workers_share_the_held_port_and_get_every_connection() -> None:
    with hold_shared(LOOPBACK, 0, "--port") as held, closing(socket.socket()) as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(held.getsockname())
        worker.listen()
        worker.settimeout(60)
        for _ in range(20):
            with socket.create_connection(held.getsockname(), timeout=60):
                worker.accept()[0].close()


def test_ended_connections_of_a_former_listener_do_not_hold_the_port() -> None:
    with listen_alone(LOOPBACK, free_port(), "--port") as former:
        address = former.getsockname()
        with socket.create_connection(address) as client:
            served, _ = former.accept()
            served.close()  # first, so that the listener's side is the one that waits
            assert client.recv(1) == b""
    with hold_shared(*address, "--port") as held:
        assert held.getsockname() == address
    with listen_alone(*address, "--port") as again:
        assert url_of(again) == f"http://{LOOPBACK}:{address[1]}"


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("203.0.113.7", "is no address of this machine; give another one with --host"),
        ("no host", "cannot be resolved: .*; give an address with --host"),
    ],
)
def test_a_host_that_cannot_be_had_is_named(host: str, message: str) -> None:
    with pytest.raises(PortError, match=message):
        listen_alone(host, 0, "--port")


def test_the_url_of_an_ipv6_socket_has_brackets() -> None:
    try:
        listening = listen_alone("::1", 0, "--port")
    except PortError:
        pytest.skip("this machine has no IPv6 loopback")
    with listening:
        assert url_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"
