"""The verdict on all nodes together: a pure function of what was read on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pymotor.ascend.netcheck import outputs
from pymotor.ascend.netcheck.findings import Finding, Verdict
from pymotor.ascend.netcheck.judge_device import SPARED_BY_PING, device_address, judge_config, judge_device_steps
from pymotor.ascend.netcheck.judge_pings import Place, judge_pings
from pymotor.ascend.netcheck.readings import ConnectReading, NodeReadings
from pymotor.ascend.netcheck.steps import STEPS, address_step

NODE_STEP = "node"
_STEP_ORDER = {step: place for place, step in enumerate((NODE_STEP, *STEPS))}


def judge(nodes: Sequence[NodeReadings]) -> list[Finding]:
    """Every finding, good and bad, ordered by node, step and device."""
    findings: list[Finding] = []
    for node in nodes:
        if node.trouble:
            findings.append(Finding(node.node, None, NODE_STEP, Verdict.FAILED, node.trouble, _TROUBLE_ADVICE))
            continue
        if not node.devices:
            findings.append(Finding(node.node, None, NODE_STEP, Verdict.FAILED, "no device", _NO_DEVICE_ADVICE))
        findings += judge_config(node) if node.devices else []
        for device in node.devices:
            findings += judge_device_steps(node, device)
        findings += [_connect(node.node, connect) for connect in node.connects]
    findings = _equal_tls(nodes, _distinct_addresses(nodes, findings))
    suspects = {
        (finding.node, finding.device)
        for finding in findings
        if finding.verdict is Verdict.FAILED and finding.device is not None
    }
    pings = judge_pings(nodes, suspects)
    findings = [_spared(finding, pings.passing) for finding in findings] + pings.findings
    order = {node.node: place for place, node in enumerate(nodes)}
    return sorted(findings, key=lambda it: (order.get(it.node, len(order)), _STEP_ORDER[it.step], _first(it.device)))


_TROUBLE_ADVICE = (
    "make the node answer (`ssh -o BatchMode=yes NODE true`) and have the driver's tools, then check again"
)
_NO_DEVICE_ADVICE = "see `npu-smi info -l` on the node, or name the devices by `--devices`"


def _first(device: int | None) -> int:
    return -1 if device is None else device


def _distinct_addresses(nodes: Sequence[NodeReadings], findings: list[Finding]) -> list[Finding]:
    """Two devices with one address: both are named, since only their owner knows which of them has it wrongly."""
    owners: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for node in nodes:
        for device in node.devices:
            address = device_address(node.generation, device)
            if address is not None:
                owners[address].append((node.node, device.device))
    steps = {node.node: address_step(node.generation) for node in nodes}
    changed: dict[tuple[str, int, str], Finding] = {}
    for address, places in owners.items():
        for name, number in places if len(places) > 1 else ():
            others = " and ".join(f"{other[0]} device {other[1]}" for other in places if other != (name, number))
            seen = f"{address}, as {others}"
            advice = f"give one of them another: `hccn_tool -i {number} -ip -s address ADDRESS netmask NETMASK`"
            changed[name, number, steps[name]] = Finding(name, number, steps[name], Verdict.FAILED, seen, advice)
    return _replaced(findings, changed)


def _equal_tls(nodes: Sequence[NodeReadings], findings: list[Finding]) -> list[Finding]:
    """TLS on at one end and off at the other: nothing passes. What most have is right; in a tie, off."""
    places: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    for node in nodes:
        for device in node.devices:
            outcome = device.steps.get("tls")
            switch = outputs.tls_switch(outcome.output) if outcome is not None and not outcome.problem else None
            if switch is not None and switch[0] == device.device:
                places[switch[1]].append((node.node, device.device))
    usual = len(places[True]) > len(places[False])
    changed: dict[tuple[str, int, str], Finding] = {}
    for name, number in places[not usual] if places[usual] else ():
        seen = f"{_switch(not usual)}, but {_switch(usual)} at {len(places[usual])} others"
        advice = f"make it equal everywhere: `hccn_tool -i {number} -tls -s enable {int(usual)}`"
        changed[name, number, "tls"] = Finding(name, number, "tls", Verdict.FAILED, seen, advice)
    return _replaced(findings, changed)


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _replaced(findings: list[Finding], changed: dict[tuple[str, int, str], Finding]) -> list[Finding]:
    """The findings, good ones replaced by what was found in comparison with others."""
    return [
        changed.get((finding.node, _first(finding.device), finding.step), finding)
        if finding.verdict is Verdict.GOOD
        else finding
        for finding in findings
    ]


def _spared(finding: Finding, passing: set[Place]) -> Finding:
    """Ping is decisive: a port that says DOWN but whose pings are all answered is to be looked at, not a failure."""
    said = SPARED_BY_PING.get(finding.step, ())
    if finding.device is None or finding.verdict is not Verdict.FAILED or finding.seen.upper() not in said:
        return finding
    if (finding.node, finding.device) not in passing:
        return finding
    return finding._replace(verdict=Verdict.WARNING, seen=f"{finding.seen}, though its pings are answered")


def _connect(node: str, reading: ConnectReading) -> Finding:
    where = f"{reading.host}:{reading.port}" if ":" not in reading.host else f"[{reading.host}]:{reading.port}"
    problem = reading.outcome.problem
    if not problem:
        return Finding(node, None, "tcp", Verdict.GOOD, f"{where} open")
    advice = {
        "refused": f"{reading.host} can be reached, but nothing listens there: start the server, see which address "
        "it listens on; a firewall that rejects looks the same (`--tcp-listen` tells them apart)",
        "timed out": "packets are dropped on the way: open the port in the firewalls of both hosts and between them",
        "no route": "no way to that host: check its address, and routes and cables of the hosts' network",
        "unknown name": "the name means nothing here: use the address, or mend /etc/hosts or DNS",
    }.get(problem, "try `curl -v telnet://HOST:PORT` on the node")
    detail = outputs.first_line(reading.outcome.output)
    seen = f"{where} {problem}" + (f" ({detail})" if detail else "")
    return Finding(node, None, "tcp", Verdict.FAILED, seen, advice)
