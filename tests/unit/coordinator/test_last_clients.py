"""The last clients of a listening socket: whoever has begun to connect gets in, and nobody after them."""

from __future__ import annotations

import array
import contextlib
import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pymotor.coordinator.http.last_clients import accept_waiting, pass_over_new

MILLISECONDS = 20_000
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)


@contextmanager
def hearing_nothing(client: socket.socket) -> Iterator[None]:
    """What others send to it is lost within the block."""
    program = array.array("B", _DROP_ALL)
    described = struct.pack("HP", 1, program.buffer_info()[0])
    client.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)
    yield
    client.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


def connecting(port: int) -> socket.socket:
    """A client that has begun to connect, and does not wait."""
    client = socket.socket()
    client.setblocking(False)
    with hearing_nothing(client):
        assert client.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
    return client


def end_of_connecting(client: socket.socket) -> int:
    """0 when it got through, else the error's number. The kernel tries again after a second."""
    waiting = select.poll()
    waiting.register(client, select.POLLOUT)
    assert waiting.poll(MILLISECONDS), "neither connected nor refused"
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_who_has_begun_gets_in_and_nobody_after_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as opened:
        port = listener.getsockname()[1]
        early = opened.enter_context(connecting(port))
        pass_over_new(listener)
        late = opened.enter_context(connecting(port))
        assert end_of_connecting(early) == 0
        (accepted,) = accept_waiting(listener)
        opened.enter_context(accepted)
        assert accepted.getpeername() == early.getsockname()
        listener.close()
        assert end_of_connecting(late) == errno.ECONNREFUSED
        early.sendall(b"request")
        accepted.sendall(b"answer")
        assert (select.select([accepted], [], [], 20)[0], accepted.recv(64)) == ([accepted], b"request")
        assert (select.select([early], [], [], 20)[0], early.recv(64)) == ([early], b"answer")


def test_all_who_wait_are_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(socket.create_connection(listener.getsockname())) for _ in range(40)]
        accepted = [opened.enter_context(one) for one in accept_waiting(listener)]
        assert [one.getpeername() for one in accepted] == [one.getsockname() for one in clients]
        assert accept_waiting(listener) == []


def test_where_there_are_no_filters_all_goes_on(caplog) -> None:
    """A listener that is closed stands for a kernel that refuses."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.close()
    pass_over_new(listener)
    assert "may be reset" in caplog.text
