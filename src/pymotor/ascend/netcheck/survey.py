"""Collects the readings of all nodes: what there is, each device's steps, then the ways between the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pymotor.ascend.devices import Generation, Run, generation_of, list_devices
from pymotor.ascend.netcheck.judge_device import device_address
from pymotor.ascend.netcheck.nodes import Node, NodeError, Target, opened
from pymotor.ascend.netcheck.pairs import Peer, PingMode, choose_pairs
from pymotor.ascend.netcheck.readings import (
    ConnectReading,
    DeviceReadings,
    NodeReadings,
    Outcome,
    PingReading,
)
from pymotor.ascend.netcheck.steps import CONFIG_PATH, command, device_steps, ping_command
from pymotor.ascend.tools import INSTALLED_TOOLS, AscendToolError, ToolOutput

NO_TOOL = "no hccn_tool"
NO_LIST = "no npu-smi"
_TRIES_OF_BUSY_TOOL = 10

Progress = Callable[[int, int], None]
"""Told how many commands are done and how many are known by now."""


class Plan(NamedTuple):
    """What to check. Times in seconds; `peers` are devices that are known beforehand, by node."""

    steps: frozenset[str]
    ping: PingMode | None = None
    devices: tuple[int, ...] | None = None
    generation: Generation | None = None
    hccn_tool: str = ""
    hccn_config: str = CONFIG_PATH
    at_once: int = 16
    timeout: float = 20.0
    peers: Mapping[str, Sequence[Peer]] = {}
    hosts: Mapping[str, str] = {}
    tcp_hosts: tuple[str, ...] = ()
    tcp_ports: tuple[int, ...] = ()
    tcp_listen: bool = False
    tcp_timeout: float = 3.0


async def survey(targets: Sequence[Target], plan: Plan, progress: Progress) -> list[NodeReadings]:
    """The readings of each node, in order. A node that cannot be read has `trouble` instead."""
    meeting = _Meeting(targets)
    count = _Count(progress)
    tasks = [asyncio.create_task(_survey_node(target, plan, meeting, count)) for target in targets]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Trouble(Exception):
    """A node that has not what the check needs."""


class _Meeting:
    """Where nodes wait for each other: for all addresses before they ping, for all pings before they end."""

    def __init__(self, targets: Sequence[Target]) -> None:
        loop = asyncio.get_running_loop()
        self._found: dict[str, asyncio.Future[tuple[Peer, ...]]] = {it.name: loop.create_future() for it in targets}
        self._left: dict[str, asyncio.Future[None]] = {target.name: loop.create_future() for target in targets}

    async def found(self, name: str, peers: tuple[Peer, ...]) -> dict[str, tuple[Peer, ...]]:
        """Tells a node's devices and waits for those of all others."""
        self.gone_without(name, peers)
        return {other: await future for other, future in self._found.items()}

    async def finished(self, name: str) -> None:
        """Waits until no node needs another any more."""
        self._leave(name)
        for future in self._left.values():
            await future

    def gone_without(self, name: str, peers: tuple[Peer, ...] = ()) -> None:
        """A node's devices, if they are not told yet."""
        if not self._found[name].done():
            self._found[name].set_result(peers)

    def gone(self, name: str) -> None:
        """Nobody needs to wait for this node."""
        self.gone_without(name)
        self._leave(name)

    def _leave(self, name: str) -> None:
        if not self._left[name].done():
            self._left[name].set_result(None)


class _Count:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = self._known = 0

    def expect(self, more: int) -> None:
        self._known += more
        self._progress(self._done, self._known)

    def one(self) -> None:
        self._done += 1
        self._progress(self._done, self._known)


async def _survey_node(target: Target, plan: Plan, meeting: _Meeting, count: _Count) -> NodeReadings:
    try:
        async with opened(target, plan.at_once) as node:
            tool = await _tool(node, plan)
            devices, generation = await _devices(node, plan)
            if plan.tcp_listen:
                # A port that is in use has a server of its own, which will answer as well.
                await asyncio.gather(*(node.listen(port) for port in plan.tcp_ports))
            config = await node.read(plan.hccn_config) if "config" in plan.steps else None
            read = await _device_readings(node, tool, devices, generation, plan, count)
            peers = tuple(
                Peer(target.name, device.device, address)
                for device in read
                if (address := device_address(generation, device)) is not None
            )
            everybody = await meeting.found(target.name, peers)
            pings, connects = await asyncio.gather(
                _ping(node, tool, generation, plan, everybody, devices, count), _connect(node, plan, count)
            )
            await meeting.finished(target.name)
            without_pings = "ping" not in plan.steps or plan.ping == "none"
            return NodeReadings(
                target.name, generation, config, tuple(read), tuple(pings), tuple(connects), without_pings
            )
    except NodeError as error:
        return NodeReadings(target.name, trouble=str(error))
    except _Trouble as error:
        return NodeReadings(target.name, trouble=str(error))
    finally:
        meeting.gone(target.name)


async def _tool(node: Node, plan: Plan) -> str:
    candidates = (plan.hccn_tool,) if plan.hccn_tool else ("hccn_tool", INSTALLED_TOOLS["hccn_tool"])
    tool = await node.find(candidates)
    if not tool:
        raise _Trouble(f"{NO_TOOL} ({' or '.join(candidates)}); it comes with the driver, `--hccn-tool` says where")
    return tool


async def _devices(node: Node, plan: Plan) -> tuple[tuple[int, ...], Generation]:
    """Which devices to check, and of which generation the machine is."""
    if plan.devices is not None and plan.generation is not None:
        return plan.devices, plan.generation
    instead = "name the devices by `--devices 0-7` and the machine by `--generation A2` (or A3)"
    npu_smi = await node.find(("npu-smi", INSTALLED_TOOLS["npu-smi"], "/usr/local/bin/npu-smi"))
    if not npu_smi:
        raise _Trouble(f"{NO_LIST}, which lists devices: {instead}")
    try:
        devices, generation = await asyncio.to_thread(_listed, _tool_of(node, npu_smi, plan.timeout))
    except AscendToolError as error:
        raise _Trouble(f"{error}; or {instead}") from error
    return plan.devices or devices, plan.generation or generation


def _listed(run: Run) -> tuple[tuple[int, ...], Generation]:
    devices = list_devices(run)
    return tuple(device.device_id for device in devices), generation_of(devices, run)


def _tool_of(node: Node, npu_smi: str, timeout: float) -> Run:
    """A node's npu-smi for code that runs in a thread beside the loop and waits for each answer."""
    loop = asyncio.get_running_loop()

    def run(argv: Sequence[str]) -> ToolOutput:
        asking = node.run("npu-smi", (npu_smi, *argv[1:]), timeout)
        outcome = asyncio.run_coroutine_threadsafe(asking, loop).result()
        if outcome.problem or outcome.status is None:
            raise AscendToolError(f"`{' '.join(argv)}`: {outcome.problem} {outcome.output}".rstrip())
        return ToolOutput(tuple(argv), outcome.status, outcome.output)

    return run


async def _device_readings(
    node: Node, tool: str, devices: Sequence[int], generation: Generation, plan: Plan, count: _Count
) -> list[DeviceReadings]:
    steps = [step for step in device_steps(generation) if step in plan.steps]
    count.expect(len(devices) * len(steps))

    async def one(device: int, step: str) -> Outcome:
        outcome = await node.run(str(device), command(tool, device, step), plan.timeout, _TRIES_OF_BUSY_TOOL)
        count.one()
        return outcome

    async def all_of(device: int) -> DeviceReadings:
        outcomes = await asyncio.gather(*(one(device, step) for step in steps))
        return DeviceReadings(device, dict(zip(steps, outcomes, strict=True)))

    return list(await asyncio.gather(*map(all_of, devices)))


async def _ping(
    node: Node,
    tool: str,
    generation: Generation,
    plan: Plan,
    everybody: Mapping[str, Sequence[Peer]],
    devices: Sequence[int],
    count: _Count,
) -> list[PingReading]:
    if "ping" not in plan.steps:
        return []
    others = other_nodes(node.target.name, everybody, plan.peers)
    mode = plan.ping or ("all" if len(others) == 1 else "sample")
    pairs = choose_pairs(mode, node.target.name, devices, others)
    count.expect(len(pairs))

    async def one(device: int, peer: Peer) -> PingReading:
        argv = ping_command(tool, device, generation, peer.address)
        outcome = await node.run(str(device), argv, plan.timeout, _TRIES_OF_BUSY_TOOL)
        count.one()
        return PingReading(device, peer.node, peer.device, peer.address, outcome)

    return list(await asyncio.gather(*(one(device, peer) for device, peer in pairs)))


def other_nodes(
    name: str, everybody: Mapping[str, Sequence[Peer]], known: Mapping[str, Sequence[Peer]]
) -> dict[str, Sequence[Peer]]:
    """The devices of the other nodes: those read now, and known ones (of a ranktable, of files) of nodes not read.

    A known node that has an address in common with one read now is that node under another name.
    """
    read_now = {peer.address for peers in everybody.values() for peer in peers}
    others = {other: peers for other, peers in everybody.items() if other != name and peers}
    unread = {
        other: peers
        for other, peers in known.items()
        if other not in everybody and not any(peer.address in read_now for peer in peers)
    }
    return {**others, **unread}


async def _connect(node: Node, plan: Plan, count: _Count) -> list[ConnectReading]:
    if "tcp" not in plan.steps or not plan.tcp_ports:
        return []
    hosts = [host for name, host in plan.hosts.items() if name != node.target.name]
    hosts += [host for host in plan.tcp_hosts if host not in hosts]
    ways = [(host, port) for host in hosts for port in plan.tcp_ports]
    count.expect(len(ways))

    async def one(host: str, port: int) -> ConnectReading:
        outcome = await node.connect(host, port, plan.tcp_timeout)
        count.one()
        return ConnectReading(host, port, outcome)

    return list(await asyncio.gather(*(one(host, port) for host, port in ways)))
