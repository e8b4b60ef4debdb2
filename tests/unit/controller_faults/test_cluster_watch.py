"""The watch of Nodes and device reports, against a small server with real connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from small_api_server import CONFIGMAPS, NODES, SmallAPIServer

from pymotor.controller.faults.cluster_api import ClusterAccess, ClusterAPI, ClusterError, access_from_environment
from pymotor.controller.faults.cluster_watch import ClusterFaults, ClusterWatch
from pymotor.controller.faults.levels import FaultLevel

PREFIX = "mindx-dl-deviceinfo-"
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
NOT_READY = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}


def a_report(*devices: str) -> dict[str, object]:
    entries = [{"npu_name": name, "fault_level": "SeparateNPU", "fault_code": "80CD8008"} for name in devices]
    listed = {"DeviceInfo": {"DeviceList": {"huawei.com/Ascend910-Fault": json.dumps(entries)}}}
    return {"data": {"DeviceInfoCfg": json.dumps(listed)}}


class Told:
    """What the watch has told last."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ClusterFaults()
        self.pauses: list[float] = []
        self._changed = asyncio.Condition()

    def take(self, faults: ClusterFaults) -> None:
        self.last = faults
        self.count += 1
        self._wake()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._wake()
        await asyncio.sleep(0)

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._task = asyncio.ensure_future(wake())

    async def until(self, condition: Callable[[Told], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self))

    @property
    def places(self) -> set[tuple[str, str]]:
        return {(fault.machine, fault.device) for fault in self.last.faults}


@contextlib.asynccontextmanager
async def watching(server: SmallAPIServer, token_file: Path | None = None) -> AsyncGenerator[Told, None]:
    told = Told()
    access = ClusterAccess(url=server.url, token_file=token_file)
    async with ClusterAPI(access) as api:
        watch = ClusterWatch(api, namespace="kube-system", prefix=PREFIX, changed=told.take, pause=told.pause)
        task = asyncio.ensure_future(watch.run())
        try:
            yield told
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def server() -> AsyncGenerator[SmallAPIServer, None]:
    async with SmallAPIServer().serving() as small:
        yield small


async def test_what_is_there_and_what_changes(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret-1\n")
    await server.put(NODES, "a", **READY)
    await server.put(NODES, "b", **NOT_READY)
    await server.put(CONFIGMAPS, f"{PREFIX}a", **a_report("Ascend910-4"))
    await server.put(CONFIGMAPS, "somebody-elses", data={"DeviceInfoCfg": "{"})
    async with watching(server, token) as told:
        await told.until(lambda it: it.last.complete)
        assert told.places == {("a", "Ascend910-4"), ("b", "")}
        assert told.last.problems == ()
        assert {fault.level for fault in told.last.faults} == {FaultLevel.L6}
        await server.wait_for(server.watched)
        await server.put(CONFIGMAPS, f"{PREFIX}c", **a_report("Ascend910-1", "Ascend910-2"))
        await told.until(lambda it: "c" in it.last.by_machine)
        await server.put(NODES, "b", **READY)
        await told.until(lambda it: "b" not in it.last.by_machine)
        await server.remove(CONFIGMAPS, f"{PREFIX}a")
        await told.until(lambda it: "a" not in it.last.by_machine)
        assert told.places == {("c", "Ascend910-1"), ("c", "Ascend910-2")}
        token.write_text("secret-2\n")
        await server.drop_connections()
        await server.wait_for(lambda: "bearer secret-2" in server.tokens)
    lists = [query for _, query in server.requests if "watch" not in query]
    assert len(lists) == 2, "a watch that breaks goes on from where it was"


async def test_what_changed_while_the_connection_was_broken_is_not_lost(server):
    await server.put(NODES, "a", **READY)
    async with watching(server) as told:
        await server.wait_for(server.watched)
        server.refusal = (500, "etcd is not there")
        await server.drop_connections()
        await told.until(lambda it: len(it.pauses) >= 8)
        assert told.pauses[0] == 1.0
        assert max(told.pauses) <= 30.0
        await server.put(NODES, "a", **NOT_READY)
        server.refusal = None
        await told.until(lambda it: it.places == {("a", "")})


@pytest.mark.parametrize("as_event", [False, True])
async def test_a_version_that_is_too_old_is_listed_anew(server, as_event):
    server.gone_as_event = as_event
    await server.put(NODES, "a", **NOT_READY)
    await server.put(CONFIGMAPS, f"{PREFIX}a", **a_report("Ascend910-4"))
    async with watching(server) as told:
        await server.wait_for(server.watched)
        server.refusal = (503, "restarting")
        await server.drop_connections()
        await server.remove(NODES, "a")
        await server.put(CONFIGMAPS, f"{PREFIX}b", **a_report("Ascend910-5"))
        server.oldest = server.version
        server.refusal = None
        await told.until(lambda it: it.places == {("a", "Ascend910-4"), ("b", "Ascend910-5")})


async def test_long_lists_come_in_pages(server):
    server.page = 2
    for number in range(5):
        await server.put(NODES, f"n{number}", **NOT_READY)
    async with watching(server) as told:
        await told.until(lambda it: it.last.complete)
        assert set(told.last.by_machine) == {f"n{number}" for number in range(5)}


async def test_a_broken_configmap_is_a_problem_and_clears_nothing(server):
    await server.put(CONFIGMAPS, f"{PREFIX}a", **a_report("Ascend910-4"))
    async with watching(server) as told:
        await server.wait_for(server.watched)
        await server.put(CONFIGMAPS, f"{PREFIX}a", data={"DeviceInfoCfg": "{"})
        await told.until(lambda it: bool(it.last.problems))
        assert told.places == {("a", "Ascend910-4")}
        assert f"{PREFIX}a" in told.last.problems[0]
        await server.put(CONFIGMAPS, f"{PREFIX}a", **a_report())
        await told.until(lambda it: not it.last.problems)
        assert told.places == set()


async def test_nothing_is_told_twice(server):
    await server.put(NODES, "a", **NOT_READY)
    async with watching(server) as told:
        await told.until(lambda it: it.last.complete)
        count = told.count
        await server.wait_for(server.watched)
        await server.put(NODES, "a", **NOT_READY, spec={"unschedulable": True})
        await server.put(NODES, "b", **NOT_READY)
        await told.until(lambda it: "b" in it.last.by_machine)
        assert told.count == count + 1


@pytest.mark.parametrize(
    "raw",
    [
        b"no json\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": 7}}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "internal"}}\n',
        b'{"type": "ADDED", "obj',
        b"",
    ],
)
async def test_nonsense_of_a_watch_changes_nothing(server, raw):
    await server.put(NODES, "a", **NOT_READY)
    server.raw = raw
    async with watching(server) as told:
        await told.until(lambda it: len(it.pauses) >= 4)
        assert told.places == {("a", "")}
        server.raw = None
        await server.put(NODES, "b", **NOT_READY)
        await told.until(lambda it: it.places == {("a", ""), ("b", "")})


@pytest.mark.parametrize("answer", [(200, "{"), (200, "[]"), (200, '{"metadata": {}}'), (403, "no rights")])
async def test_a_list_that_is_none_leaves_all_unknown(server, answer):
    server.refusal = answer
    async with watching(server) as told:
        await told.until(lambda it: len(it.pauses) >= 4)
        assert not told.last.complete
        assert told.count == 0


async def test_a_token_that_cannot_be_read(tmp_path):
    async with ClusterAPI(ClusterAccess(url="http://127.0.0.1:9", token_file=tmp_path / "none")) as api:
        with pytest.raises(ClusterError, match="cannot be read"):
            await api.list(NODES)


async def test_an_authority_that_cannot_be_used(tmp_path):
    (tmp_path / "ca.crt").write_text("nonsense")
    with pytest.raises(ClusterError, match="cannot be used"):
        ClusterAPI(ClusterAccess(url="https://127.0.0.1:9", authority_file=tmp_path / "ca.crt"))


def test_what_a_pod_is_given(tmp_path):
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert access_from_environment({}, tmp_path) is None
    assert access_from_environment(inside, tmp_path) is None, "without a token"
    (tmp_path / "token").write_text("secret")
    access = access_from_environment(inside, tmp_path)
    assert access == ClusterAccess(url="https://[fd00::1]:6443", token_file=tmp_path / "token", authority_file=None)
