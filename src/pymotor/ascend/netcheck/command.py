"""`pymotor netcheck`: the check of this node and others, its two halves `collect` and `judge`, the exit status."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import tempfile
from pathlib import Path

from pymotor.ascend.netcheck import arguments as options
from pymotor.ascend.netcheck.findings import Finding
from pymotor.ascend.netcheck.judge import judge
from pymotor.ascend.netcheck.nodes import Target
from pymotor.ascend.netcheck.pairs import Peer
from pymotor.ascend.netcheck.peers import peers_of_nodes, peers_of_ranktable
from pymotor.ascend.netcheck.readings import NodeReadings, ReadingsError, read_readings, to_json
from pymotor.ascend.netcheck.report import as_json, as_text, exit_status
from pymotor.ascend.netcheck.steps import STEPS
from pymotor.ascend.netcheck.survey import NO_LIST, NO_TOOL, Plan, survey

configure = options.configure


def run(arguments: argparse.Namespace) -> int:
    """Check, collect or judge; returns 0: nothing failed, 1: something did, 2: it cannot be checked here."""
    try:
        if arguments.action == "judge":
            return _report(judge(_read(arguments)), arguments)
        targets = _targets(arguments)
        readings = asyncio.run(survey(targets, _plan(arguments, targets), _Progress()))
    except ReadingsError as error:
        return _fail(str(error))
    if all(node.trouble.startswith((NO_TOOL, NO_LIST)) for node in readings):
        return _fail("\n".join(f"{node.node}: {node.trouble}" for node in readings))
    if arguments.action == "collect":
        return _write(readings[0], arguments.output)
    return _report(judge(readings), arguments)


def _fail(message: str) -> int:
    print(f"pymotor netcheck: {message}", file=sys.stderr)
    return 2


def _report(findings: list[Finding], arguments: argparse.Namespace) -> int:
    print(as_json(findings) if arguments.json else as_text(findings, every_device=arguments.every_device))
    return exit_status(findings)


def _read(arguments: argparse.Namespace) -> list[NodeReadings]:
    nodes = [read_readings(path) for path in arguments.files]
    names = [node.node for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise ReadingsError(f"two files are of one node, {name}; nodes that share a name: `collect --node-name`")
    return nodes


def _write(readings: NodeReadings, path: Path) -> int:
    """Writes the file as a whole or not at all."""
    if readings.trouble:
        print(f"pymotor netcheck: {readings.trouble}", file=sys.stderr)
        return 1
    if str(path) == "-":
        sys.stdout.buffer.write(to_json(readings))
        return 0
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(to_json(readings))
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        return _fail(f"{path}: {error.strerror}")
    print(f"{readings.node}: {len(readings.devices)} devices, {len(readings.pings)} pings -> {path}")
    return 0


def _targets(arguments: argparse.Namespace) -> list[Target]:
    here = arguments.node_name or socket.gethostname()
    own_names = {here, socket.gethostname(), "localhost", "127.0.0.1", "::1"}
    chosen = [word for words in arguments.nodes or () for word in words]
    others = {_host(word): word for word in chosen if _host(word) not in own_names}
    is_here = not arguments.not_here or any(_host(word) in own_names for word in chosen)
    if arguments.not_here and not chosen:
        arguments.usage_error("--not-here leaves nothing to check: name others by --nodes")
    ssh_options = tuple(arguments.ssh_option)
    targets = [Target(here)] if is_here else []
    return targets + [Target(host, word, ssh_options) for host, word in others.items()]


def _host(destination: str) -> str:
    return destination.rpartition("@")[2]


def _plan(arguments: argparse.Namespace, targets: list[Target]) -> Plan:
    peers: dict[str, list[Peer]] = {}
    tcp_hosts = list(arguments.tcp_hosts)
    if arguments.ranktable is not None:
        peers.update(peers_of_ranktable(arguments.ranktable))
        tcp_hosts += [server for server in peers if server not in tcp_hosts]
    peers.update(peers_of_nodes(read_readings(path) for path in arguments.peers))
    hosts = {target.name: target.name for target in targets if target.destination}
    here = next((target.name for target in targets if not target.destination), "")
    if here and hosts:
        hosts[here] = arguments.address or _own_address(next(iter(hosts)))
    return Plan(
        steps=(arguments.steps or frozenset(STEPS)) - arguments.skip,
        ping=arguments.ping,
        devices=arguments.devices,
        generation=None if arguments.generation == "auto" else arguments.generation,
        hccn_tool=arguments.hccn_tool,
        hccn_config=arguments.hccn_conf,
        at_once=arguments.at_once,
        timeout=arguments.timeout,
        peers=peers,
        hosts=hosts,
        tcp_hosts=tuple(tcp_hosts),
        tcp_ports=arguments.tcp_ports,
        tcp_listen=arguments.tcp_listen,
        tcp_timeout=arguments.tcp_timeout,
    )


def _own_address(peer: str) -> str:
    """The address from which this machine speaks to `peer`; its host name where that cannot be told."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as speaking:
            speaking.connect(address)
            return str(speaking.getsockname()[0])
    except OSError:
        return socket.gethostname()


class _Progress:
    """Shows on a terminal how far the check is; silent elsewhere."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def __call__(self, done: int, known: int) -> None:
        if self._on:
            end = "\r\x1b[K" if done == known else ""
            print(f"\r\x1b[Knetcheck: {done} of {known} commands{end}", end="", file=sys.stderr, flush=True)
