"""Verdicts on one device's own steps, each from what one command printed."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from pymotor.ascend.devices import Generation
from pymotor.ascend.netcheck import outputs
from pymotor.ascend.netcheck.findings import Finding, Verdict
from pymotor.ascend.netcheck.readings import DeviceReadings, NodeReadings, Outcome
from pymotor.ascend.netcheck.steps import CONFIG_PATH, address_step, device_steps

Judged = tuple[Verdict, str, str]
"""Verdict, what was seen, what to do."""

SPARED_BY_PING = {"link": ("DOWN",), "health": ("FAULT", "INIT")}
"""Steps and what they say where a device whose pings are all answered gets a warning only: ping is decisive."""


def judge_device_steps(node: NodeReadings, readings: DeviceReadings) -> list[Finding]:
    """One finding for each step that is one command."""
    findings = []
    for step in device_steps(node.generation):
        outcome = readings.steps.get(step)
        if outcome is None:
            judged: Judged = (Verdict.NOT_CHECKED, "left out", "")
        else:
            judged = _judge(outcome, _JUDGES[step], readings.device)
        findings.append(Finding(node.node, readings.device, step, *judged))
    return findings


def judge_config(node: NodeReadings) -> list[Finding]:
    """/etc/hccn.conf, which is read when the machine starts: is each device in it, with the address it has now?"""
    if node.config is None:
        return [Finding(node.node, None, "config", Verdict.NOT_CHECKED, "left out")]
    if node.config.problem or node.config.status:
        seen = outputs.first_line(node.config.output) or node.config.problem
        advice = (
            f"{CONFIG_PATH} must exist, or a restart loses all addresses: set them with hccn_tool, which writes it. "
            "In a container, mount the file."
        )
        return [Finding(node.node, None, "config", Verdict.FAILED, f"{node.config.command[-1]}: {seen}", advice)]
    settings = outputs.hccn_config(node.config.output)
    return [
        Finding(node.node, device.device, "config", *_config(device, settings.get(device.device, {}), node.generation))
        for device in node.devices
    ]


def device_address(generation: Generation, readings: DeviceReadings) -> str | None:
    """The address that a device says it has, if it is one."""
    outcome = readings.steps.get(address_step(generation))
    if outcome is None or outcome.problem or outcome.status:
        return None
    address = outputs.device_address(outcome.output)
    return address if address is not None and outputs.is_usable_address(address) else None


def failure_of(outcome: Outcome) -> Judged | None:
    """The verdict on a command that did not come to an end as it should; None where its text can be read."""
    if outcome.problem == "timed out":
        return (
            Verdict.FAILED,
            "no answer: the command timed out",
            f"run `{_shown(outcome)}` by hand; if it hangs, the driver does: see `dmesg`, reset the device",
        )
    if outcome.problem:
        seen = f"{outcome.problem}: {outputs.first_line(outcome.output)}"
        return Verdict.FAILED, seen, f"run `{_shown(outcome)}` by hand on the node"
    if outputs.says_unsupported(outcome.output):
        return Verdict.NOT_CHECKED, outputs.first_line(outcome.output), ""
    if outputs.says_busy(outcome.output):
        advice = "something else keeps calling hccn_tool: find it (`ps -ef | grep hccn_tool`) and run the check again"
        return Verdict.FAILED, outputs.first_line(outcome.output), advice
    return None


def exit_failure(outcome: Outcome) -> Judged | None:
    """The verdict on a command that says by its exit status that it failed."""
    if not outcome.status:
        return None
    seen = f"exit status {outcome.status}: {outputs.first_line(outcome.output) or 'no output'}"
    advice = f"run `{_shown(outcome)}` by hand on the node"
    if any(word in outcome.output.lower() for word in ("permission", "privilege", "root")):
        advice = "run the check as root, or as a user of the driver's group"
    return Verdict.FAILED, seen, advice


def unreadable(outcome: Outcome) -> Judged:
    """The verdict on an answer that has not the shape it should have."""
    line = outputs.first_line(outcome.output)
    seen = f"cannot be read: {line}" if line else "printed nothing"
    return Verdict.FAILED, seen, f"run `{_shown(outcome)}` by hand and compare with docs/network-check.md"


def _shown(outcome: Outcome) -> str:
    return shlex.join(outcome.command)


def _judge(outcome: Outcome, judge: Callable[[Outcome, int], Judged], device: int) -> Judged:
    return failure_of(outcome) or exit_failure(outcome) or judge(outcome, device)


def _link(outcome: Outcome, device: int) -> Judged:
    status = outputs.link_status(outcome.output)
    if status is None:
        return unreadable(outcome)
    if status == "UP":
        return Verdict.GOOD, status, ""
    advice = f"check cable, optical module (`hccn_tool -i {device} -optical -g`) and the switch's port"
    return Verdict.FAILED, status, advice


def _health(outcome: Outcome, device: int) -> Judged:
    status = outputs.health_status(outcome.output)
    if status is None:
        return unreadable(outcome)
    if status.lower() == "success":
        return Verdict.GOOD, status, ""
    advice = {
        "detect ip set": f"no detect address is set: `hccn_tool -i {device} -netdetect -s address GATEWAY`",
        "receive timeout": "the detect address does not answer: check that it is the gateway's, and the switch",
        "unreachable": "no way to the detect address: check gateway, netmask and VLAN of the switch's port",
        "time exceeded": "packets circle on their way to the detect address: check the switches' routes",
        "init": "the health check has not run yet: wait a minute and check again",
        "socket fail": "the device's network is not ready: check link and address, then reset the device",
        "thread error": "the driver's health check does not run: see `dmesg`, restart the driver",
    }.get(status.lower(), "check link, address, gateway and detect address of the device")
    return Verdict.FAILED, status, advice


def _lldp(outcome: Outcome, _device: int) -> Judged:
    port = outputs.switch_port(outcome.output)
    if port is not None:
        return Verdict.GOOD, port, ""
    line = outputs.first_line(outcome.output)
    if line and "tlv" not in outcome.output.lower():
        return unreadable(outcome)
    advice = (
        "nothing at the other end speaks LLDP: check the cable, turn LLDP on at the switch's port; "
        "where switches have it off, leave this out by `--skip lldp`"
    )
    return Verdict.FAILED, "no neighbour", advice


def _netdetect(outcome: Outcome, device: int) -> Judged:
    advice = f"`hccn_tool -i {device} -netdetect -s address GATEWAY`"
    address = outputs.detect_address(outcome.output)
    if address is None:
        return _not_set(outcome, "no detect address", advice)
    return _address(address, advice)


def _gateway(outcome: Outcome, device: int) -> Judged:
    advice = f"`hccn_tool -i {device} -gateway -s gateway GATEWAY`"
    gateway = outputs.gateway(outcome.output)
    if gateway is None:
        return _not_set(outcome, "no gateway", advice)
    return _address(gateway.address, advice)


def _ip(outcome: Outcome, device: int) -> Judged:
    advice = f"`hccn_tool -i {device} -ip -s address ADDRESS netmask NETMASK`"
    address = outputs.device_address(outcome.output)
    if address is None:
        return _not_set(outcome, "no address", advice)
    return _with_netmask(outcome, address, advice)


def _vnic(outcome: Outcome, _device: int) -> Judged:
    advice = "the driver sets it when the super pod is up: check `npu-smi info -t spod-info`, restart the driver"
    status = outputs.link_status(outcome.output)
    if status is not None and status != "UP":
        return Verdict.FAILED, f"vnic link {status}", advice
    address = outputs.device_address(outcome.output)
    if address is None:
        return _not_set(outcome, "no address", advice)
    if status is None:
        return unreadable(outcome)
    return _with_netmask(outcome, address, advice)


def _tls(outcome: Outcome, device: int) -> Judged:
    switch = outputs.tls_switch(outcome.output)
    if switch is None:
        return unreadable(outcome)
    if switch[0] != device:
        return Verdict.FAILED, f"speaks of device {switch[0]}: {outputs.first_line(outcome.output)}", "check the driver"
    return Verdict.GOOD, "on" if switch[1] else "off", ""


def _with_netmask(outcome: Outcome, address: str, advice: str) -> Judged:
    judged = _address(address, advice)
    mask = outputs.netmask(outcome.output)
    if judged[0] is Verdict.GOOD and (mask is None or not outputs.is_usable_address(mask)):
        return Verdict.FAILED, f"{address}, netmask {mask or 'missing'}", advice
    return judged


def _address(address: str, advice: str) -> Judged:
    if outputs.is_usable_address(address):
        return Verdict.GOOD, address, ""
    return Verdict.FAILED, f"{outputs.first_line(address)} is no address", advice


def _not_set(outcome: Outcome, seen: str, advice: str) -> Judged:
    """An answer without the value: nothing is set, and the tool's own words for it are shown."""
    line = outputs.first_line(outcome.output)
    return Verdict.FAILED, f"{seen}: {line}" if line else seen, advice


def _config(readings: DeviceReadings, settings: dict[str, str], generation: Generation) -> Judged:
    device = readings.device
    missing = [f"{key}_{device}" for key in ("address", "netmask") if not settings.get(key)]
    if missing:
        advice = f"`hccn_tool -i {device} -ip -s address ADDRESS netmask NETMASK` writes it; without it a restart does"
        return Verdict.FAILED, f"without {', '.join(missing)}", advice + " away with the address"
    later = [f"{key}_{device}" for key in ("netdetect", "gateway") if not settings.get(key)]
    if later:
        advice = "set it with hccn_tool, or it is gone after a restart"
        return Verdict.FAILED, f"without {', '.join(later)}", advice
    live = device_address(generation, readings) if generation == "A2" else None
    if live is not None and live != settings["address"]:
        advice = "after a restart the file's address counts: set the right one with `hccn_tool -ip -s`"
        return Verdict.WARNING, f"address_{device}={settings['address']}, but the device has {live}", advice
    return Verdict.GOOD, f"address_{device}={settings['address']}", ""


_JUDGES: dict[str, Callable[[Outcome, int], Judged]] = {
    "lldp": _lldp,
    "link": _link,
    "health": _health,
    "netdetect": _netdetect,
    "gateway": _gateway,
    "ip": _ip,
    "vnic": _vnic,
    "tls": _tls,
}
