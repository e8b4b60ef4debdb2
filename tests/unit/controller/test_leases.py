"""Who leads: one at a time, an epoch that only grows, and numbers that outlive their holder."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pymotor.controller.file_lease import FileLease
from pymotor.controller.kubernetes_lease import KubernetesLease
from pymotor.controller.leadership import Leadership, NotLeadingError
from pymotor.controller.lease import Lease, LeaseError, LeaseRecord

MakeLease = Callable[[], Lease]


class Clock:
    """Moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class LeaseAPI:
    """What of the Kubernetes API a lease needs: get, create, replace, and conflicts by resourceVersion."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 7
        self.breaks: list[int] = []
        """Statuses of the next answers, instead of what was asked for."""
        self.loses = False
        """Whether the next write is made and its answer lost."""
        lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with lock:
                    found = api.objects.get(self.path.rpartition("/")[2])
                    self._answer(200 if found else 404, found or {"message": "not found"})

            def do_POST(self) -> None:
                with lock:
                    self._write(self._body(), create=True)

            def do_PUT(self) -> None:
                with lock:
                    self._write(self._body(), create=False)

            def _body(self) -> dict[str, Any]:
                body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                return body

            def _write(self, body: dict[str, Any], create: bool) -> None:
                name = body["metadata"]["name"]
                former = api.objects.get(name)
                asked = body["metadata"].get("resourceVersion")
                if (create and former) or (not create and asked != former["metadata"]["resourceVersion"]):  # type: ignore[index]
                    self._answer(409, {"message": "the object has been modified"})
                    return
                api.version += 1
                body["metadata"]["resourceVersion"] = str(api.version)
                api.objects[name] = body
                self._answer(201 if create else 200, body)

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                if self.headers["Authorization"] != "Bearer account-token":
                    status, body = 401, {"message": "Unauthorized"}
                if api.loses and self.command != "GET":
                    api.loses = False
                    self.close_connection = True
                    return
                if api.breaks:
                    status, body = api.breaks.pop(0), {"message": "broken"}
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api() -> Iterator[LeaseAPI]:
    running = LeaseAPI()
    yield running
    running.close()


@pytest.fixture(params=["file", "kubernetes"])
def make_lease(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLease]:
    if request.param == "file":
        yield lambda: FileLease(tmp_path / "state")
        return
    running = LeaseAPI()
    yield lambda: kubernetes(running, tmp_path)
    running.close()


def kubernetes(api: LeaseAPI, directory: Path, token: str = "account-token") -> KubernetesLease:
    (directory / "token").write_text(token)
    return KubernetesLease(api.url, "ns", "pymotor", token_file=directory / "token", ca_file=None)


def leader(lease: Lease, name: str, clock: Clock) -> Leadership:
    return Leadership(lease, name, f"http://{name}:1", 9.0, clock)


async def test_one_leads_and_the_other_knows_whom(make_lease: MakeLease) -> None:
    clock = Clock()
    first, second = leader(make_lease(), "first", clock), leader(make_lease(), "second", clock)
    assert await first.try_to_lead()
    # Both run in this process, which lives.
    assert not await second.try_to_lead()
    assert (first.epoch, second.other) == (1, "http://first:1")
    with pytest.raises(NotLeadingError) as refused:
        second.check()
    assert refused.value.leader == "http://first:1"


async def test_a_lease_that_is_renewed_is_kept_and_one_that_is_not_is_lost(make_lease: MakeLease) -> None:
    clock = Clock()
    first, second = leader(make_lease(), "first", clock), leader(make_lease(), "second", clock)
    assert await first.try_to_lead()
    for _ in range(5):
        assert not await second.try_to_lead()
        clock.now += 5.0
        await first.renew()
    assert not await second.try_to_lead()
    clock.now += 8.9
    assert first.leads
    assert not await second.try_to_lead()
    clock.now += 0.1
    assert not first.leads
    assert await second.try_to_lead()
    assert second.epoch == 2
    with pytest.raises(NotLeadingError):
        await first.renew()
    assert not await first.try_to_lead()
    assert first.other == "http://second:1"


async def test_numbers_outlive_their_holder(make_lease: MakeLease) -> None:
    clock = Clock()
    first, second = leader(make_lease(), "first", clock), leader(make_lease(), "second", clock)
    await first.try_to_lead()
    await first.keep_numbers({"union": 3})
    await first.renew()
    assert first.numbers == {"union": 3}
    await first.hand_back()
    assert not first.leads
    assert await second.try_to_lead()
    assert (second.epoch, second.numbers) == (2, {"union": 3})


async def test_of_many_that_try_at_once_one_leads(make_lease: MakeLease) -> None:
    clock = Clock()
    tried = [leader(make_lease(), f"c{number}", clock) for number in range(8)]
    leads = await asyncio.gather(*(one.try_to_lead() for one in tried))
    assert sum(leads) == 1


async def test_after_a_greater_epoch_was_heard_of_the_next_one_is_greater_still(make_lease: MakeLease) -> None:
    first = leader(make_lease(), "first", Clock())
    await first.try_to_lead()
    first.resign(7)
    assert not first.leads
    assert await first.try_to_lead()
    assert first.epoch == 8


async def test_a_holder_that_died_on_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from pymotor.controller.file_lease import FileLease\n"
        "from pymotor.controller.leadership import Leadership\n"
        "lease = Leadership(FileLease(Path(sys.argv[1])), 'dead', 'http://dead', 1000.0)\n"
        "print(asyncio.run(lease.try_to_lead()))"
    )
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert died.stdout == "True\n", died.stderr
    heir = leader(FileLease(tmp_path), "heir", Clock())
    assert await heir.try_to_lead()
    assert heir.epoch == 2


def test_a_pid_that_was_given_again_is_not_the_holder(tmp_path: Path) -> None:
    lease = FileLease(tmp_path)
    own = lease.identify(LeaseRecord(holder="x"))
    assert own.pid == os.getpid()
    assert not lease.holder_is_dead(own)
    assert lease.holder_is_dead(msgspec.structs.replace(own, started=own.started - 1))
    assert not lease.holder_is_dead(msgspec.structs.replace(own, started=1, machine="another"))


async def test_a_broken_lease_file_is_said_to_be_one(tmp_path: Path) -> None:
    lease = FileLease(tmp_path)
    (tmp_path / "lease.json").write_text("{")
    with pytest.raises(LeaseError, match="no lease"):
        await lease.read()


async def test_the_lease_object_is_as_kubernetes_knows_it(api: LeaseAPI, tmp_path: Path) -> None:
    first = leader(kubernetes(api, tmp_path), "pod-1", Clock())
    await first.try_to_lead()
    await first.keep_numbers({"decode": 2})
    (lease,) = api.objects.values()
    assert (lease["apiVersion"], lease["kind"]) == ("coordination.k8s.io/v1", "Lease")
    spec = lease["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("pod-1", 9, 1)
    assert spec["renewTime"].endswith("Z")
    assert json.loads(lease["metadata"]["annotations"]["pymotor/instance-numbers"]) == {"decode": 2}


async def test_a_write_whose_answer_is_lost_is_gone_on_with(api: LeaseAPI, tmp_path: Path) -> None:
    first = leader(kubernetes(api, tmp_path), "pod-1", Clock())
    await first.try_to_lead()
    api.loses = True
    with pytest.raises(LeaseError):
        await first.renew()
    assert first.leads
    await first.renew({"union": 1})
    assert (first.leads, first.epoch, first.numbers) == (True, 1, {"union": 1})


@pytest.mark.parametrize("status", [403, 500])
async def test_an_api_that_refuses_is_a_lease_error(api: LeaseAPI, tmp_path: Path, status: int) -> None:
    first = leader(kubernetes(api, tmp_path), "pod-1", Clock())
    await first.try_to_lead()
    api.breaks.append(status)
    with pytest.raises(LeaseError, match=f"HTTP {status}"):
        await first.renew()
    assert first.leads
    wrong = kubernetes(api, tmp_path, "of-somebody-else")
    with pytest.raises(LeaseError, match="401"):
        await wrong.read()


def test_outside_of_a_cluster_there_is_no_kubernetes_lease() -> None:
    with pytest.raises(LeaseError, match="in a pod only"):
        KubernetesLease.in_cluster("/master_lock", {})
