"""Where engines are, as people write it: `host`, `host:port`, `[::1]:8001`, `http://host:port`."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

_NAME = re.compile(r"(?!-)[0-9A-Za-z_-]{1,63}(?<!-)(\.(?!-)[0-9A-Za-z_-]{1,63}(?<!-))*\.?")


class AddressError(ValueError):
    """This is no address of an engine; the message says why."""


class Address(NamedTuple):
    """One engine's host and port. Equal for equal sockets as far as that is seen without asking anybody."""

    host: str
    """A name in lower case or an IP address in its shortest form, without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return f"http://{self}"

    @property
    def socket(self) -> tuple[str, int]:
        """What two addresses have in common that reach the same socket: localhost is 127.0.0.1."""
        return ("127.0.0.1" if self.host == "localhost" else self.host, self.port)


def host_from(text: str) -> str:
    """A host name or IP address, IPv6 with or without brackets; one that stands for all interfaces is dialled as this
    machine. Raises `AddressError`."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        pass  # it may be a name
    else:
        if address.is_unspecified:
            return "127.0.0.1" if address.version == 4 else "::1"
        return str(address)
    if re.fullmatch(r"[0-9.]+", bare) or ":" in bare:
        raise AddressError(f"{text!r} is no IP address; several addresses are separated by spaces")
    if len(bare) > 253 or not _NAME.fullmatch(bare):
        raise AddressError(f"{text!r} is neither a host name nor an IP address")
    return bare.lower()


def port_from(text: str) -> int:
    """A port that can be dialled. Raises `AddressError`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise AddressError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def address_from(text: str) -> Address:
    """`host:port`, with the host of an IPv6 address in brackets. Raises `AddressError`."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        raise AddressError(f"{text!r} is not host:port (IPv6: [address]:port)")
    return Address(host_from(host), port_from(port))


def address_from_url(text: str) -> Address:
    """`http://host:port`, or the same without `http://`; the port may be left out: 80. Raises `AddressError`."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise AddressError(f"{text!r} must be http://host:port: {error}") from error
    if parts.scheme != "http":
        raise AddressError(f"{text!r}: engines are asked by http only")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise AddressError(f"{text!r} must be http://host:port and nothing more")
    netloc = parts.netloc
    if netloc.endswith("]") or ":" not in netloc:
        return Address(host_from(netloc), 80)
    return address_from(netloc)
