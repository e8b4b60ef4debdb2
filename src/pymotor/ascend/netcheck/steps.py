"""The steps of the check, in the order in which they are shown, and the command of each."""

from __future__ import annotations

from pymotor.ascend.devices import Generation

CONFIG_PATH = "/etc/hccn.conf"

STEPS = ("lldp", "link", "health", "netdetect", "gateway", "config", "ip", "vnic", "tls", "ping", "tcp")
"""What `--steps` and `--skip` may name. `ip` is of A2 and `vnic` of A3; a machine has only one of them."""

_OPTIONS = {
    "lldp": ("-lldp", "-g"),
    "link": ("-link", "-g"),
    "health": ("-net_health", "-g"),
    "netdetect": ("-netdetect", "-g"),
    "gateway": ("-gateway", "-g"),
    "ip": ("-ip", "-g"),
    "vnic": ("-vnic", "-g"),
    "tls": ("-tls", "-g"),
}


def address_step(generation: Generation) -> str:
    """The step that tells a device's own address."""
    return "vnic" if generation == "A3" else "ip"


def device_steps(generation: Generation) -> tuple[str, ...]:
    """The steps that are one command for each device."""
    other = "ip" if generation == "A3" else "vnic"
    return tuple(step for step in STEPS if step in _OPTIONS and step != other)


def command(tool: str, device: int, step: str) -> list[str]:
    """The command line of a step for one device."""
    return [tool, "-i", str(device), *_OPTIONS[step]]


def ping_command(tool: str, device: int, generation: Generation, address: str) -> list[str]:
    """The command line that pings `address` from a device: over RoCE on A2, over HCCS on A3."""
    return [tool, "-i", str(device), "-hccs_ping" if generation == "A3" else "-ping", "-g", "address", address]
