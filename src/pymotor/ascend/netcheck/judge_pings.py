"""Verdicts on pings: which of them failed, and whose fault that is.

A device that is dead fails the pings of all others to it, which are in order. So failures are ascribed: to a pair of
nodes between which nothing passes; to a device that reaches nobody, or that nobody reaches; else to the single pair.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pymotor.ascend.netcheck import outputs
from pymotor.ascend.netcheck.findings import Finding, Verdict
from pymotor.ascend.netcheck.judge_device import device_address, exit_failure, failure_of, unreadable
from pymotor.ascend.netcheck.readings import NodeReadings, Outcome, PingReading

Place = tuple[str, "int | str"]
"""A node's name and a device's number; an address where the number is unknown."""

_REASON = re.compile(
    r"[^\n]*(?:time out|unreachable|too long|send fail|recv msg fail|not start|inner error)[^\n]*", re.I
)
_ADVICE = (
    "check cable and switch port of both ends, their VLAN and netmask, and that TLS is equal (`hccn_tool -tls -g`)"
)


class JudgedPings(NamedTuple):
    """Findings, and the devices whose own pings are all answered but for those that somebody else is to blame for."""

    findings: list[Finding]
    passing: set[Place]


class _Ping(NamedTuple):
    source: Place
    target: Place
    address: str
    verdict: Verdict
    seen: str
    slowest_ms: float | None


def judge_pings(nodes: Sequence[NodeReadings], suspects: Collection[Place]) -> JudgedPings:
    """`suspects`: devices at which something else was found; where two could be to blame it is one of these."""
    owners = _owners(nodes)
    pings = [_judged(node.node, reading, owners) for node in nodes for reading in node.pings]
    checked = [ping for ping in pings if ping.verdict is not Verdict.NOT_CHECKED]
    failed = [ping for ping in checked if ping.verdict is Verdict.FAILED]
    findings, cut, failing = _between_nodes(checked, failed)
    of_devices, failing = _of_devices(checked, failing, suspects)
    findings += of_devices
    findings += [_of_pair(ping) for ping in failing]
    blamed: set[tuple[str, int | str | None]] = {(finding.node, finding.device) for finding in findings}
    blamed |= {ping.source for ping in failed if (ping.source[0], ping.target[0]) in cut}
    own, _ = _by_end(pings)
    passing: set[Place] = set()
    for node in nodes:
        for device in node.devices:
            place = (node.node, device.device)
            if place in blamed:
                continue
            finding = _summary(node, device.device, own[place])
            findings.append(finding)
            if finding.verdict is Verdict.GOOD:
                passing.add(place)
    return JudgedPings(findings, passing)


def _owners(nodes: Sequence[NodeReadings]) -> dict[str, Place]:
    """Whose an address is, by what devices say: a ranktable calls nodes otherwise than they call themselves."""
    owners: dict[str, Place] = {}
    for node in nodes:
        for device in node.devices:
            address = device_address(node.generation, device)
            if address is not None:
                owners.setdefault(address, (node.node, device.device))
    return owners


def _judged(node: str, reading: PingReading, owners: Mapping[str, Place]) -> _Ping:
    verdict, seen, slowest = _outcome(reading.outcome)
    named = (reading.to_node, reading.address if reading.to_device is None else reading.to_device)
    target = owners.get(reading.address, named)
    return _Ping((node, reading.device), target, reading.address, verdict, seen, slowest)


def _outcome(outcome: Outcome) -> tuple[Verdict, str, float | None]:
    failure = failure_of(outcome)
    if failure is not None:
        return failure[0], failure[1], None
    read = outputs.ping(outcome.output)
    if read is None:
        failure = exit_failure(outcome) or unreadable(outcome)
        return failure[0], failure[1], None
    if read.received == read.sent > 0:
        return Verdict.GOOD, f"{read.received} of {read.sent} answered", read.slowest_ms
    reason = _REASON.search(outcome.output)
    seen = f"{read.received} of {read.sent} answered"
    return Verdict.FAILED, f"{seen}: {outputs.first_line(reason[0])}" if reason else seen, read.slowest_ms


def _between_nodes(
    checked: Sequence[_Ping], failing: Sequence[_Ping]
) -> tuple[list[Finding], set[tuple[str, str]], list[_Ping]]:
    """Pairs of nodes, each with two devices or more, between which no ping passes in one direction."""
    every: defaultdict[tuple[str, str], list[_Ping]] = defaultdict(list)
    for ping in checked:
        every[ping.source[0], ping.target[0]].append(ping)
    findings = []
    cut: set[tuple[str, str]] = set()
    for (source, target), pings in every.items():
        sides = {ping.source for ping in pings}, {ping.target for ping in pings}
        if min(map(len, sides)) >= 2 and all(ping.verdict is Verdict.FAILED for ping in pings):
            seen = f"none of its {len(sides[0])} devices reaches {target} ({len(pings)} pings; {pings[0].seen})"
            advice = f"the way between {source} and {target} is broken: check switches, routes and VLANs between them"
            findings.append(Finding(source, None, "ping", Verdict.FAILED, seen, advice))
            cut.add((source, target))
    return findings, cut, [ping for ping in failing if (ping.source[0], ping.target[0]) not in cut]


def _of_devices(
    checked: Sequence[_Ping], failing: list[_Ping], suspects: Collection[Place]
) -> tuple[list[Finding], list[_Ping]]:
    """Devices that reach nobody or that nobody reaches, those that explain most failures first."""
    all_out, all_in = _by_end(checked)
    findings: list[Finding] = []
    while True:
        failed_out, failed_in = _by_end(failing)
        explained: dict[Place, list[_Ping]] = {}
        for place in failed_out.keys() | failed_in.keys():
            ways = [
                (len(every[place]), failed[place])
                for every, failed in ((all_out, failed_out), (all_in, failed_in))
                if all(ping.verdict is Verdict.FAILED for ping in every[place])
            ]
            pings = [ping for _, failed in ways for ping in failed]
            # One failed ping alone is as much the other end's fault, unless something else is wrong here.
            if pings and (max(count for count, _ in ways) >= 2 or place in suspects):
                explained[place] = pings
        if not explained:
            return findings, failing
        worst = max(explained, key=lambda place: (len(explained[place]), place in suspects, str(place)))
        findings.append(_of_device(worst, all_out[worst], all_in[worst], explained[worst]))
        settled = set(map(id, explained[worst]))
        failing = [ping for ping in failing if id(ping) not in settled]


def _by_end(pings: Iterable[_Ping]) -> tuple[defaultdict[Place, list[_Ping]], defaultdict[Place, list[_Ping]]]:
    out: defaultdict[Place, list[_Ping]] = defaultdict(list)
    into: defaultdict[Place, list[_Ping]] = defaultdict(list)
    for ping in pings:
        out[ping.source].append(ping)
        into[ping.target].append(ping)
    return out, into


def _of_device(place: Place, out: Sequence[_Ping], into: Sequence[_Ping], explained: Sequence[_Ping]) -> Finding:
    parts = []
    if any(ping in explained for ping in out):
        parts.append(f"reaches none of {len(out)}")
    if any(ping in explained for ping in into):
        parts.append(f"none of {len(into)} reaches it")
    node, device = place
    name = "" if isinstance(device, int) else f"{device} "
    seen = f"{name}{', '.join(parts)} ({explained[0].seen})"
    advice = "check its link, address and gateway above, its cable and its switch port"
    return Finding(node, device if isinstance(device, int) else None, "ping", Verdict.FAILED, seen, advice)


def _of_pair(ping: _Ping) -> Finding:
    node, device = ping.source
    assert isinstance(device, int)
    other_node, other = ping.target
    target = f"device {other} of {other_node} ({ping.address})" if isinstance(other, int) else f"{other_node} {other}"
    return Finding(node, device, "ping", Verdict.FAILED, f"to {target}: {ping.seen}", _ADVICE)


def _summary(node: NodeReadings, device: int, own: Sequence[_Ping]) -> Finding:
    answered = [ping for ping in own if ping.verdict is Verdict.GOOD]
    if not answered:
        seen = "left out" if node.without_pings else "no device of another node is known"
        seen = own[0].seen if own else seen
        if any(ping.verdict is Verdict.FAILED for ping in own):
            seen = "those that it pinged are at fault themselves"
        return Finding(node.node, device, "ping", Verdict.NOT_CHECKED, seen)
    times = [ping.slowest_ms for ping in answered if ping.slowest_ms is not None]
    seen = f"{len(answered)} of {len(own)} reached"
    if times:
        seen += f", slowest {max(times):.3g} ms"
    if len(answered) < len(own):
        seen += "; the others are at fault themselves"
    return Finding(node.node, device, "ping", Verdict.GOOD, seen)
