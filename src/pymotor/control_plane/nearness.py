"""Who is on this machine, as seen by a server that several may reach."""

from __future__ import annotations

import ipaddress
import socket
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
    return (
        not any(name in headers for name in _RELAYED)
        and on_this_machine(peer, reached_at)
        and calls_this_machine(headers)
    )


def calls_this_machine(headers: Mapping[str, str]) -> bool:
    """Whether a request, made on this machine, means this machine, and no page of another site has a browser make it.
    `headers` by name in lower case."""
    # A page may have a name of its own that leads here, and browsers say nothing else of it where that is no secure
    # context: only an address or a name of this machine is surely ours. Every browser sends a Host.
    host = headers.get("host")
    if host is not None and not _is_ours(host):
        return False
    site = headers.get("sec-fetch-site")
    return (site is None and "origin" not in headers) or (site in _OWN_PAGE and host is not None)


def _is_ours(host: str) -> bool:
    """Whether a Host header has an address, localhost or this machine's own name."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
