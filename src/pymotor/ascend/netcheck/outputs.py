"""What hccn_tool prints, as values. No function here raises, whatever the text; None: not to be found in it.

Shapes are those of the tool's own output on Atlas A2 and A3; spaces around colons differ between steps and versions.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_FLAGS = re.IGNORECASE | re.MULTILINE
_LINK = re.compile(r"^[ \t]*(?:vnic[ \t]+)?link status[ \t]*:[ \t]*(\w+)", _FLAGS)
_HEALTH = re.compile(r"^[ \t]*net health status[ \t]*:[ \t]*(\S.*?)[ \t\r]*$", _FLAGS)
_DETECT = re.compile(r"^[ \t]*netdetect address[ \t]*:[ \t]*(\S+)", _FLAGS)
_GATEWAY = re.compile(r"default gateway[ \t]*:[ \t]*([^,\s]+)(?:[ \t]*,[ \t]*Iface[ \t]*:[ \t]*(\S+))?", _FLAGS)
_ADDRESS = re.compile(r"^[ \t]*(?:vnic[ \t]+)?ipaddr[ \t]*:[ \t]*(\S+)", _FLAGS)
_NETMASK = re.compile(r"^[ \t]*(?:vnic[ \t]+)?netmask[ \t]*:[ \t]*(\S+)", _FLAGS)
_PORT_NAME = re.compile(r"^[ \t]*Ifname[ \t]*:[ \t]*(\S.*?)[ \t\r]*$", _FLAGS)
_TLS = re.compile(r"dev_id:(\d{1,6}),[ \t]*tls switch\[(\d)\]", _FLAGS)
_PACKETS = re.compile(
    r"(\d{1,9}) packets transmitted,[ \t]*(\d{1,9}) received,[ \t]*(\d{1,3}(?:\.\d{1,6})?)% packets? loss", _FLAGS
)
_ROUND_TRIP = re.compile(
    r"recv seq[ \t]*=?[ \t]*\d+,[ \t]*time[ \t]*=[ \t]*(\d{1,9}(?:\.\d{1,9})?)[ \t]*(ms|us)", _FLAGS
)
_CONFIG_LINE = re.compile(r"^[ \t]*([A-Za-z][A-Za-z_]*?)_(\d{1,4})[ \t]*=[ \t]*(\S*)[ \t\r]*$", re.MULTILINE)


class Ping(NamedTuple):
    """The last line of a ping, and the slowest answer in milliseconds (None: none was timed)."""

    sent: int
    received: int
    slowest_ms: float | None


class Gateway(NamedTuple):
    """A default gateway and the device's interface that it is reached by ("" where the tool does not say)."""

    address: str
    interface: str


def link_status(text: str) -> str | None:
    """`UP` or `DOWN` (or whatever word the tool has), of `-link -g` and `-vnic -g`."""
    return _first(_LINK, text, upper=True)


def health_status(text: str) -> str | None:
    """`Success`, `Receive timeout` …, of `-net_health -g`."""
    return _first(_HEALTH, text)


def detect_address(text: str) -> str | None:
    """The address that the device's own health check pings, of `-netdetect -g`."""
    return _first(_DETECT, text)


def gateway(text: str) -> Gateway | None:
    """The default gateway, of `-gateway -g`."""
    found = _GATEWAY.search(text)
    return Gateway(found[1], found[2] or "") if found else None


def device_address(text: str) -> str | None:
    """The device's own address, of `-ip -g` and `-vnic -g`."""
    return _first(_ADDRESS, text)


def netmask(text: str) -> str | None:
    """The device's netmask, of `-ip -g` and `-vnic -g`."""
    return _first(_NETMASK, text)


def switch_port(text: str) -> str | None:
    """The neighbour's port, of `-lldp -g`."""
    return _first(_PORT_NAME, text)


def tls_switch(text: str) -> tuple[int, bool] | None:
    """The device that the line speaks of and whether its TLS is on, of `-tls -g`."""
    found = _TLS.search(text)
    return (int(found[1]), found[2] != "0") if found else None


def ping(text: str) -> Ping | None:
    """Of `-ping -g` and `-hccs_ping -g`, which differ in words and units."""
    found = _PACKETS.search(text)
    if found is None:
        return None
    times = [float(value) / (1000 if unit.lower() == "us" else 1) for value, unit in _ROUND_TRIP.findall(text)]
    return Ping(int(found[1]), int(found[2]), max(times, default=None))


def hccn_config(text: str) -> dict[int, dict[str, str]]:
    """/etc/hccn.conf: for each device its settings, `address_3=10.0.0.1` as `{3: {"address": "10.0.0.1"}}`."""
    settings: dict[int, dict[str, str]] = {}
    for key, device, value in _CONFIG_LINE.findall(text):
        settings.setdefault(int(device), {})[key] = value
    return settings


def is_usable_address(text: str) -> bool:
    """Whether this is an IP address that a host can have: not 0.0.0.0, not a network's name, no words."""
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def says_unsupported(text: str) -> bool:
    """Whether the tool says that this machine does not have what was asked about."""
    return "does not support" in text.lower()


def says_busy(text: str) -> bool:
    """Whether the tool asks to be called again later."""
    return "hccn_tool is busy" in text.lower()


def first_line(text: str, limit: int = 120) -> str:
    """The first line with anything in it, printable, at most `limit` characters; "" where there is none."""
    for line in text.splitlines():
        shown = "".join(character if character.isprintable() else " " for character in line).strip()
        if shown:
            return shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return ""


def _first(pattern: re.Pattern[str], text: str, *, upper: bool = False) -> str | None:
    found = pattern.search(text)
    if found is None:
        return None
    value: str = found[1]
    return value.upper() if upper else value
