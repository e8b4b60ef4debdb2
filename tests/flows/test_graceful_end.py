"""A Coordinator that is told to end answers whoever has reached it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from fleet_under_test import Engines, Gateway
from images import text_chat
from processes import wait_until
from raw_client import RawConnection, post

from pymotor.fleet import Role

REQUEST = post(json.dumps(text_chat(max_tokens=4)).encode())
STREAM = post(json.dumps(text_chat(max_tokens=200, stream=True)).encode())
LARGE = post(json.dumps(text_chat("and so on " * 20_000)).encode())
WAITING = 12


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One engine that takes its time."""
    with Engines(tmp_path_factory.mktemp("union"), {Role.UNION: 1}, flags=["--sim-speed", "0.5"], plain=False) as found:
        yield found


@contextmanager
def standing_still(engines: Engines) -> Iterator[None]:
    """The engine does nothing within the block."""
    process = engines["union-0"].process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


def ask_to_end(gateway: Gateway) -> None:
    """Returns when its worker accepts nobody any more."""
    gateway.process.ask_to_end()
    wait_until(lambda: refuses(gateway.port), "nobody is accepted any more")


def last_answer(client: RawConnection) -> int:
    """The status of the next answer, which is the last: it says so, and the connection ends in order behind it."""
    reply = client.reply()
    assert reply.headers["connection"] == "close"
    assert client.socket.recv(1) == b""
    return reply.status


def test_an_answer_says_that_its_connection_closes(union: Engines) -> None:
    """The request is in hand when the order to end comes, and its client would send the next one there."""
    with Gateway(union, label="closing") as gateway, RawConnection(gateway.port) as client:
        with standing_still(union):
            client.send(REQUEST)
            wait_until(lambda: any(load[1] for load in gateway.loads().values()), "it is in hand")
            ask_to_end(gateway)
        assert last_answer(client) == 200


def test_a_signal_to_all_of_its_processes_cuts_nothing(union: Engines) -> None:
    """Service managers send it so."""
    with Gateway(union, label="group") as gateway, RawConnection(gateway.port) as client:
        with standing_still(union):
            client.send(REQUEST)
            wait_until(lambda: any(load[1] for load in gateway.loads().values()), "it is in hand")
            os.killpg(gateway.process.pid, signal.SIGTERM)
            wait_until(lambda: refuses(gateway.port), "nobody is accepted any more")
        assert last_answer(client) == 200


def test_all_who_were_not_accepted_yet_are_answered(union: Engines) -> None:
    """The worker is busy: connections with their requests wait in the kernel when the order to end comes."""
    with Gateway(union, label="ending") as gateway, ExitStack() as opened:
        supervisor = psutil.Process(gateway.process.pid)
        (worker,) = (one for one in supervisor.children() if "worker" in " ".join(one.cmdline()))
        os.kill(worker.pid, signal.SIGSTOP)
        clients = [opened.enter_context(RawConnection(gateway.port)) for _ in range(WAITING)]
        for client in clients:
            client.send(REQUEST)
        gateway.process.ask_to_end()
        os.kill(worker.pid, signal.SIGCONT)
        assert [last_answer(client) for client in clients] == [200] * WAITING


def test_a_request_that_has_come_in_part_is_waited_for(union: Engines) -> None:
    """Longer than for a connection that nobody uses."""
    with Gateway(union, label="parts") as gateway, RawConnection(gateway.port) as client:
        begun = len(REQUEST) - 20
        with RawConnection(gateway.port) as unused:
            # They come together: when the first is answered, the beginning of the second has been read.
            client.send(REQUEST, REQUEST[:begun])
            assert client.reply().status == 200
            gateway.process.ask_to_end()
            assert unused.socket.recv(1) == b""
        client.send(REQUEST[begun:])
        assert last_answer(client) == 200


def test_a_request_that_was_on_its_way_is_answered(union: Engines) -> None:
    """On a connection that waits for its next request, and on one that waits for its first."""
    with (
        Gateway(union, label="idle") as gateway,
        RawConnection(gateway.port) as used,
        RawConnection(gateway.port) as fresh,
    ):
        used.send(REQUEST)
        assert used.reply().status == 200
        ask_to_end(gateway)
        for client in (used, fresh):
            client.send(REQUEST)
        assert [last_answer(client) for client in (used, fresh)] == [200, 200]


def test_what_follows_a_stream_is_answered(union: Engines) -> None:
    """Its head is out when the order to end comes, so its client has not heard that the connection closes."""
    with Gateway(union, label="stream") as gateway, RawConnection(gateway.port) as client:
        client.send(STREAM)
        client.read_until(b"data: ")
        with standing_still(union):
            ask_to_end(gateway)
        stream = client.reply()
        assert "connection" not in stream.headers
        assert stream.body.endswith(b"data: [DONE]\n\n")
        client.send(REQUEST)
        assert last_answer(client) == 200


def test_what_comes_behind_the_last_request_resets_nothing(union: Engines) -> None:
    """A client that does not wait for answers fills the connection before it can know that it closes."""
    with Gateway(union, label="behind") as gateway, RawConnection(gateway.port) as client:
        with standing_still(union):
            client.send(REQUEST)
            wait_until(lambda: any(load[1] for load in gateway.loads().values()), "it is in hand")
            ask_to_end(gateway)
            client.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.socket.send(LARGE)
            client.socket.setblocking(True)
        assert last_answer(client) == 200
