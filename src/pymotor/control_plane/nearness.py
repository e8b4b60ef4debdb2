"""Who is on this machine, as seen by a server that several may reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

_RELAYED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of a proxy in front, behind which every client seems near."""
_OWN_PAGE = ("none", "same-origin")


def on_this_machine(peer: str, reached_at: str) -> bool:
    """Whether the client at address `peer`, which dialled our address `reached_at`, is on this machine."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    # From its own address to itself, as with --host 192.0.2.1, is the same machine too.
    return peer == reached_at or bool((mapped or address).is_loopback)


def is_near(peer: str, reached_at: str, headers: Mapping[str, str]) -> bool:
    """Whether a request was made on this machine, and not for somebody elsewhere: by a proxy, or by a browser that a
    page of another site steers. `headers` by name in lower case."""
    if any(name in headers for name in _RELAYED) or not on_this_machine(peer, reached_at):
        return False
    site = headers.get("sec-fetch-site")
    if site is None and "origin" not in headers:
        return True
    # A page may have a name of its own that leads here: only an address or localhost is surely ours.
    return site in _OWN_PAGE and _is_plain(headers.get("host", ""))


def _is_plain(host: str) -> bool:
    """Whether a Host header has an address, or localhost."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
