"""Who listens on a TCP port: the kernel's own account of it, where there is /proc.

A health check answered on the right port proves nothing: vLLM binds with SO_REUSEPORT, so a second engine, or
another user's, may answer in place of the one that still loads.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable

_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def foreign_listener(address: str, port: int, processes: Iterable[int]) -> bool:
    """Whether a socket that none of `processes` holds takes connections to this address and port.

    False where the kernel does not tell (no /proc).
    """
    listening = _listening_sockets(address, port)
    return bool(listening) and not listening <= _sockets_of(processes)


def _listening_sockets(address: str, port: int) -> set[str]:
    """Inodes of the sockets that listen on the port, on this address or on all."""
    places = _written_by_kernel(address)
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                rows = [line.split() for line in lines]
        except OSError:
            continue
        for row in rows[1:]:
            host, _, written_port = row[1].partition(":")
            if row[3] == _LISTEN and int(written_port, 16) == port and host in places:
                found.add(row[9])
    return found


def _written_by_kernel(address: str) -> set[str]:
    """The address and "all interfaces" as /proc writes them: words of four bytes, each in the machine's order."""
    places = {"0" * 8, "0" * 32}
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except OSError:
        return places
    mapped = packed if family == socket.AF_INET6 else bytes(10) + b"\xff\xff" + packed
    return places | {_words(packed), _words(mapped)}


def _words(packed: bytes) -> str:
    words = (int.from_bytes(packed[start : start + 4], "little") for start in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words)


def _sockets_of(processes: Iterable[int]) -> set[str]:
    """Inodes of all sockets that the processes hold."""
    found: set[str] = set()
    for process in processes:
        directory = f"/proc/{process}/fd"
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            try:
                match = _SOCKET.fullmatch(os.readlink(f"{directory}/{name}"))
            except OSError:
                continue
            if match is not None:
                found.add(match.group(1))
    return found
