"""A configuration that changes while its parts run: taken up without a restart, refused, or waiting for one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import plain_http
import psutil  # type: ignore[import-untyped]
import pytest
from fleet_under_test import Engines, Gateway, Role
from images import text_chat, vision_chat
from processes import wait_until
from raw_client import RawConnection, post

WORKERS = 4
MANY = 24
"""Connections of which each worker gets some."""


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One union engine."""
    with Engines(tmp_path_factory.mktemp("live"), {Role.UNION: 1}, plain=False) as running:
        yield running


@pytest.fixture
def gateway(union: Engines) -> Iterator[Gateway]:
    """Four workers, with one image allowed in a request."""
    with Gateway(union, config=images_allowed(1), workers=WORKERS) as running:
        yield running


def images_allowed(number: int) -> dict[str, object]:
    return {"request_limit": {"max_media_items": number}}


def status_of_two_images(gateway: Gateway) -> set[int]:
    """Answers to requests with two images, each on a connection of its own."""
    body = vision_chat(1, 2)
    url = f"{gateway.url}/v1/chat/completions"
    return {plain_http.post(url, json=body, timeout=60).status_code for _ in range(MANY)}


def worker_pids(gateway: Gateway) -> list[int]:
    return [
        child.pid for child in psutil.Process(gateway.process.pid).children() if "worker" in " ".join(child.cmdline())
    ]


class Load:
    """Requests without a pause, as long as the block runs."""

    def __init__(self, gateway: Gateway, threads: int = 3) -> None:
        self._url = f"{gateway.url}/v1/chat/completions"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self.statuses: list[int] = []
        self.errors: list[httpx.HTTPError] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                answer = plain_http.post(self._url, json=text_chat("go on", max_tokens=2), timeout=60)
                self.statuses.append(answer.status_code)
        except httpx.HTTPError as error:
            self.errors.append(error)


def test_a_live_key_changes_what_all_workers_do_and_no_request_fails(gateway: Gateway) -> None:
    before = worker_pids(gateway)
    assert status_of_two_images(gateway) == {400}
    with Load(gateway) as load:
        wait_until(lambda: len(load.statuses) > 5, "requests are answered")
        gateway.configure(**images_allowed(2))
        assert status_of_two_images(gateway) == {200}
        gateway.configure(**images_allowed(1))
        assert status_of_two_images(gateway) == {400}
    assert load.errors == []
    assert set(load.statuses) == {200}
    assert worker_pids(gateway) == before
    state = gateway.config()
    assert (state["taken"], state["needs_restart"], state["error"]) == (2, [], None)
    assert gateway.count("pymotor_config_info", revision=state["revision"]) == 1


def test_a_worker_that_is_started_later_has_the_new_values(gateway: Gateway) -> None:
    gateway.configure(**images_allowed(2))
    for pid in worker_pids(gateway):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gateway.count("pymotor_worker_restarts_total") == WORKERS, "all workers are others")
    wait_until(lambda: gateway.fleet()["workers_listening"] == WORKERS, "they listen")
    assert status_of_two_images(gateway) == {200}


def test_a_broken_file_changes_nothing_and_is_told(gateway: Gateway) -> None:
    revision = gateway.config()["revision"]
    gateway.config_file.write_text(gateway.config_file.read_text()[:-20])
    wait_until(lambda: gateway.config()["error"] is not None, "it is told")
    state = gateway.config()
    assert state["revision"] == revision
    assert "user_config.json: $: line 1, column" in state["error"]["message"]
    ready = plain_http.get(f"{gateway.management_url}/readiness", timeout=60)
    assert ready.status_code == 200
    assert any("configuration is not in force" in words for words in ready.json()["degraded"])
    assert gateway.count("pymotor_config_refused") == 1
    assert status_of_two_images(gateway) == {400}
    gateway.configure(**images_allowed(2))
    assert gateway.config()["error"] is None
    assert gateway.count("pymotor_config_refused") == 0


def test_a_key_that_is_not_live_is_told_and_the_others_are_taken_up(gateway: Gateway) -> None:
    gateway.configure(**images_allowed(2), inference_workers_config={"num_workers": 2})
    key = "$.motor_coordinator_config.inference_workers_config.num_workers"
    assert gateway.config()["needs_restart"] == [key]
    assert gateway.count("pymotor_config_needs_restart_keys") == 1
    assert (
        "needs a restart of this part: $.motor_coordinator_config.inference_workers_config.num_workers" in gateway.log()
    )
    assert status_of_two_images(gateway) == {200}


def test_a_mounted_config_map_is_followed(gateway: Gateway, tmp_path: Path) -> None:
    """Kubernetes writes a new directory and puts its link in the place of the old one."""
    mount = tmp_path / "mount"
    for number in (1, 2):
        (mount / f"..{number}").mkdir(parents=True)
        gateway.write_config(images_allowed(number))
        (mount / f"..{number}" / "user_config.json").write_bytes(gateway.config_file.read_bytes())
    (mount / "..data").symlink_to("..1")
    (mount / "user_config.json").symlink_to("..data/user_config.json")
    gateway.config_file.unlink()
    gateway.config_file.symlink_to(mount / "user_config.json")
    assert status_of_two_images(gateway) == {400}
    (mount / "..new").symlink_to("..2")
    (mount / "..new").rename(mount / "..data")
    wait_until(lambda: gateway.config()["taken"] == 1, "the new directory is read")
    assert status_of_two_images(gateway) == {200}


def test_a_limit_comes_and_goes_for_those_that_wait(gateway: Gateway, union: Engines) -> None:
    gateway.configure(request_limit={"max_running": {"union": 1}}, logging_config={"log_level": "DEBUG"})
    union["union-0"].fail("stall:after=2,count=1")
    holding = RawConnection(gateway.port)
    holding.send(post(json.dumps(text_chat("hold", stream=True, max_tokens=50, ignore_eos=True)).encode()))
    assert holding.socket.recv(1), "the stream has begun"
    answers: list[int] = []

    def ask() -> None:
        url = f"{gateway.url}/v1/chat/completions"
        answers.append(plain_http.post(url, json=text_chat(), timeout=60).status_code)

    waiting = threading.Thread(target=ask)
    waiting.start()
    wait_until(lambda: gateway.count("pymotor_queue_length") == 1, "it waits")
    gateway.configure(request_limit={})
    waiting.join(60)
    assert answers == [200]
    holding.socket.close()
    gateway.wait_until_idle()
    union.restore()


def test_a_running_request_keeps_the_tries_it_began_with(gateway: Gateway, union: Engines) -> None:
    gateway.configure(exception_config={"max_retry": 50, "transport_max_retry": 50, "retry_delay": 0.2})
    union["union-0"].fail("stall:after=0,count=1")
    answers: list[int] = []

    def ask() -> None:
        url = f"{gateway.url}/v1/chat/completions"
        answers.append(plain_http.post(url, json=text_chat(), timeout=60).status_code)

    running = threading.Thread(target=ask)
    running.start()
    wait_until(lambda: gateway.loads()["union-0/0"][1] == 1, "it is at the engine")
    gateway.configure(exception_config={"max_retry": 0, "engine_failure_max_retry": 0})
    union["union-0"].kill()
    ask()
    assert answers == [502], "what begins now is not tried again"
    union["union-0"].start()
    running.join(60)
    assert answers == [502, 200]
    gateway.wait_until_idle()


def test_an_open_connection_has_the_new_limits(gateway: Gateway) -> None:
    url, large = f"{gateway.url}/v1/chat/completions", text_chat("long " * 1000)
    with httpx.Client(verify=plain_http.CONTEXT, timeout=60) as client:
        assert client.post(url, json=large).status_code == 200
        gateway.configure(http_config={"body_limit_bytes": 2000})
        assert client.post(url, json=large).status_code == 413


def test_other_limits_of_requests_hold_without_a_restart(union: Engines) -> None:
    def limited(most: int) -> dict[str, object]:
        limits = {"enable_rate_limit": True, "max_requests": most, "window_size": 3600, "error_message": "enough"}
        return {"rate_limit_config": limits}

    def ask() -> httpx.Response:
        return plain_http.post(
            f"{gateway.url}/v1/chat/completions", json=text_chat("one more", max_tokens=2), timeout=60
        )

    with Gateway(union, config=limited(100_000), workers=2) as gateway:
        assert ask().status_code == 200
        gateway.configure(**limited(1))
        found = [ask().status_code for _ in range(3)]
        assert found[-1] == 429
        assert ask().json()["error"]["message"].startswith("enough")
        gateway.configure(**limited(100_000))
        assert ask().status_code == 200
        assert gateway.config()["needs_restart"] == []
