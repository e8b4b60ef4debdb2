"""Watches what Kubernetes knows of the machines' hardware: all Nodes, and the ConfigMaps of the device plugin.

One watch of each kind for the whole cluster. Level-triggered: after each change the whole present set of faults is
told, so nothing is lost by a watch that breaks. While the API server cannot be reached, what was known stands.

Rights that the Controller's service account needs, and no more:

- ClusterRole: `nodes`: `list`, `watch`;
- Role in `configmap_namespace` (kube-system): `configmaps`: `list`, `watch`. Kubernetes cannot narrow `list` down to
  names that begin with `configmap_prefix`; other ConfigMaps are passed over unread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from pymotor.controller.faults.cluster_api import ClusterAPI, ClusterError, TooOld
from pymotor.controller.faults.device_reports import DeviceReport, Faults, read_device_report, read_node_condition
from pymotor.engines.kept_servers import all_or_none

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class ClusterFaults(msgspec.Struct, frozen=True, kw_only=True):
    """All faults of hardware that are present, as far as Kubernetes knows."""

    by_machine: Mapping[str, Faults] = {}
    """Machines without faults are left out."""
    complete: bool = False
    """Whether both kinds of objects were read at least once."""
    problems: tuple[str, ...] = ()
    """Objects that cannot be read, in words; what they said before still stands."""

    @property
    def faults(self) -> Faults:
        """All of them, machine by machine."""
        return tuple(fault for machine in sorted(self.by_machine) for fault in self.by_machine[machine])


class ClusterWatch:
    """Keeps the present faults."""

    def __init__(
        self,
        api: ClusterAPI,
        *,
        namespace: str,
        prefix: str,
        changed: Callable[[ClusterFaults], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`namespace` and `prefix`: of the device plugin's ConfigMaps. `changed` is called with the whole whenever it
        is another than before. `pause` waits that many seconds before the next try."""
        self._api = api
        self._prefix = prefix
        self._changed = changed
        self._pause = pause
        self._nodes: dict[str, tuple[Faults, str]] = {}
        self._reports: dict[str, DeviceReport] = {}
        self._listed: set[str] = set()
        self._told: ClusterFaults | None = None
        self._kinds: dict[str, Callable[[str, Mapping[str, Any] | None], None]] = {
            "/api/v1/nodes": self._take_node,
            f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps": self._take_configmap,
        }

    @property
    def faults(self) -> ClusterFaults:
        """What is present now."""
        by_machine: dict[str, Faults] = {}
        problems = [f"node {name}: {problem}" for name, (_, problem) in self._nodes.items() if problem]
        for name, (faults, _) in self._nodes.items():
            by_machine[name] = faults
        for report in self._reports.values():
            by_machine[report.machine] = by_machine.get(report.machine, ()) + report.faults
            problems += [f"ConfigMap {self._prefix}{report.machine}: {problem}" for problem in report.problems]
        return ClusterFaults(
            by_machine={machine: faults for machine, faults in by_machine.items() if faults},
            complete=len(self._listed) == len(self._kinds),
            problems=tuple(sorted(problems)),
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        await all_or_none(self._follow(path) for path in self._kinds)

    async def _follow(self, path: str) -> None:
        """List a kind and watch it, again and again."""
        version = ""
        failures = 0
        complaint = ""
        while True:
            try:
                if not version:
                    version = await self._list(path)
                    failures, complaint = 0, ""
                async for seen in self._api.watch(path, version):
                    version = seen.version or version
                    if seen.kind in ("ADDED", "MODIFIED", "DELETED"):
                        self._take(path, seen.object, gone=seen.kind == "DELETED")
                        self._tell()
                    failures, complaint = 0, ""
                # The server ends each watch after a while. One that ends them all at once is not to be run down.
                await self._pause(_SHORTEST_PAUSE)
                continue
            except TooOld:
                # The server says where it cannot go on from; the list tells the whole again.
                version = ""
                logger.info("%s: the watch is too old, all is listed anew", path)
            except ClusterError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    logger.warning("faults of hardware cannot be watched, what is known stands: %s", error)
            failures += 1
            await self._pause(min(_SHORTEST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE))

    async def _list(self, path: str) -> str:
        listed = await self._api.list(path)
        take = self._kinds[path]
        # Names of the other kind are nobody here, so both may be asked.
        for name in {*self._nodes, *self._reports}.difference(map(_name, listed.objects)):
            take(name, None)
        for item in listed.objects:
            self._take(path, item, gone=False)
        self._listed.add(path)
        self._tell()
        return listed.version

    def _take(self, path: str, item: Mapping[str, Any], *, gone: bool) -> None:
        name = _name(item)
        if name:
            self._kinds[path](name, None if gone else item)

    def _take_node(self, name: str, node: Mapping[str, Any] | None) -> None:
        if node is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = read_node_condition(name, node, self._nodes.get(name, ((), ""))[0])

    def _take_configmap(self, name: str, configmap: Mapping[str, Any] | None) -> None:
        machine = name.removeprefix(self._prefix)
        if not name.startswith(self._prefix) or not machine:
            return
        if configmap is None:
            self._reports.pop(name, None)
        else:
            self._reports[name] = read_device_report(machine, configmap.get("data"), self._reports.get(name))

    def _tell(self) -> None:
        present = self.faults
        if present == self._told:
            return
        for problem in present.problems:
            if self._told is None or problem not in self._told.problems:
                logger.warning("%s; what was known before stands", problem)
        self._told = present
        self._changed(present)


def _name(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) else ""
