"""A proxy that is told to end hears its decode engines until the last request is over."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from answers import ask_one
from fleet_under_test import PLAIN, Engines
from images import text_chat
from processes import wait_until
from proxy_under_test import Proxy, flags_for, running_proxy

from pymotor.fleet import Role

LATE = "callback_late:seconds=3"
"""Long after the proxy accepts no client any more."""
ENDING = "about to end and takes no more requests"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    roles = {Role.PREFILL: 1, Role.DECODE: 1}
    connector = "MooncakeLayerwiseConnector"
    with Engines(tmp_path_factory.mktemp("late"), roles, kv_connector=connector) as running:
        yield running


@pytest.fixture(params=[1, 3], ids=lambda count: f"{count} workers")
def proxy(request: pytest.FixtureRequest, engines: Engines, tmp_path: Path) -> Iterator[Proxy]:
    flags = flags_for([engines["prefill-0"], engines["decode-0"]])
    workers = ("--workers", str(request.param))
    with running_proxy(tmp_path, "--handoff", "callback", *workers, *flags) as running:
        yield running


def test_requests_that_run_are_answered_though_their_callbacks_come_late(proxy: Proxy, engines: Engines) -> None:
    bodies = [text_chat(f"late {number}", max_tokens=4, stream=number % 2 == 1) for number in range(6)]
    engines["decode-0"].fail(LATE)
    with ThreadPoolExecutor(len(bodies)) as clients:
        answers = [clients.submit(ask_one, proxy.url, body) for body in bodies]
        wait_until(lambda: proxy.instances()["decode-0"]["in_flight"] == len(bodies), "all are at decode")
        proxy.process.ask_to_end()
        wait_until(lambda: _says_that_it_ends(proxy), "who connects now is told to go elsewhere")
        engines["decode-0"].fail()
        for body, answer in zip(bodies, answers, strict=True):
            assert answer.result().comparable == ask_one(engines[PLAIN].url, body).comparable
    wait_until(lambda: not proxy.process.alive, "it ends")


def test_connections_that_do_nothing_keep_no_callback_out(engines: Engines, tmp_path: Path) -> None:
    flags = flags_for([engines["prefill-0"], engines["decode-0"]])
    with (
        ExitStack() as idle,
        ThreadPoolExecutor(1) as clients,
        running_proxy(tmp_path, "--handoff", "callback", *flags, most_files=200) as proxy,
    ):
        body = text_chat("late beside many", max_tokens=4)
        engines["decode-0"].fail(LATE)
        answer = clients.submit(ask_one, proxy.url, body)
        wait_until(lambda: proxy.instances()["decode-0"]["in_flight"] == 1, "it is at decode")
        proxy.process.ask_to_end()
        wait_until(lambda: _says_that_it_ends(proxy), "who connects now is told to go elsewhere")
        address = (str(urlsplit(proxy.url).hostname), urlsplit(proxy.url).port)
        for _ in range(400):
            idle.enter_context(socket.create_connection(address, 60))
        engines["decode-0"].fail()
        assert answer.result().comparable == ask_one(engines[PLAIN].url, body).comparable
        wait_until(lambda: not proxy.process.alive, "it ends")


def _says_that_it_ends(proxy: Proxy) -> bool:
    reply = proxy.ask("GET", "/liveness")
    if reply.status_code != 503:
        return False
    assert ENDING in reply.json()["error"]["message"]
    assert reply.headers["connection"] == "close"
    return True
