"""Which proxy the way to a URL leads through, as the environment says it: `http_proxy`, `https_proxy`, `all_proxy` and
`no_proxy`, in lower case or, where those are empty, in upper case."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

_PORT = re.compile(r"[0-9]+")


def proxy_for(url: str, environment: Mapping[str, str]) -> str:
    """The proxy's URL; empty: none."""
    parts = urlsplit(url)
    proxy = _said(environment, f"{parts.scheme}_proxy") or _said(environment, "all_proxy")
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    exempt = [entry.strip().lower() for entry in _said(environment, "no_proxy").split(",")]
    if not proxy or any(_names(entry, host, port) for entry in exempt if entry):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _said(environment: Mapping[str, str], variable: str) -> str:
    return (environment.get(variable) or environment.get(variable.upper(), "")).strip()


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` means this host: a name with all below it, an address, a network or `*`, with a
    port or without."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        # One of both is a name.
        pass
    name, _, stated = entry.rpartition(":")
    if name and _PORT.fullmatch(stated):
        # As text: a number may have more digits than can be read.
        if stated.lstrip("0") != str(port):
            return False
        entry = name.strip("[]")
    domain = entry.lstrip(".")
    return host == domain or host.endswith(f".{domain}")
