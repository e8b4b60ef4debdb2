"""A Coordinator that is told to end answers whoever has reached it."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import psutil
from fleet_under_test import Engines, Gateway
from images import text_chat
from processes import wait_until

from pymotor.fleet import Role

_BODY = json.dumps(text_chat(max_tokens=4)).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)


def test_an_answer_says_that_its_connection_closes(tmp_path: Path) -> None:
    """The request is in hand when the order to end comes, and its client would send the next one there."""
    with Engines(tmp_path, {Role.UNION: 1}) as engines, Gateway(engines, ["union-0"], label="closing") as gateway:
        engines["union-0"].fail("slow:seconds=2,path=/v1/chat/completions")
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
            client.settimeout(60)
            client.sendall(REQUEST)
            wait_until(lambda: any(load[1] for load in gateway.loads().values()), "it is in hand")
            gateway.process.ask_to_end()
            with client.makefile("rb") as reply:
                told = reply.read()
        assert told.startswith(b"HTTP/1.1 200 OK\r\n"), told
        assert b"\r\nConnection: close\r\n" in told


def test_who_was_not_accepted_yet_is_answered(engines: Engines) -> None:
    """The worker is busy: a connection with its request waits in the kernel when the order to end comes."""
    with Gateway(engines, label="ending") as gateway:
        supervisor = psutil.Process(gateway.process.pid)
        (worker,) = (one for one in supervisor.children() if "worker" in " ".join(one.cmdline()))
        os.kill(worker.pid, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
            client.settimeout(60)
            client.sendall(REQUEST)
            gateway.process.ask_to_end()
            os.kill(worker.pid, signal.SIGCONT)
            with client.makefile("rb") as reply:
                told = reply.read()
            assert told.startswith(b"HTTP/1.1 200 OK\r\n"), told
