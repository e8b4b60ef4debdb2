"""What one machine gives to the engines planned on it: an address, ports, devices, identities."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

from pymotor.engines.plan import new_id
from pymotor.engines.tls import EngineTLS

FIRST_PORT = 20000
"""Where ports are looked for when none is preferred: below the range that systems give to outgoing connections."""


class NoPortLeftError(OSError):
    """No run of free ports is left on the host."""


class HostResources:
    """Gives each engine of one machine its own ports, devices and identity; what was given is not given again.

    One object stands for one machine while one fleet is planned on it. Nothing is held open: a port was free
    when it was given, and another program may still take it before the engine does.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        *,
        python: str = "",
        engine_version: str = "",
        shared_directory: Path | None = None,
        devices: tuple[int, ...] | None = None,
        port_is_free: Callable[[str, int], bool] | None = None,
        tls: EngineTLS | None = None,
    ) -> None:
        """`python`: the interpreter in which vLLM or SGLang is installed; empty: their commands on PATH.
        `engine_version`: of that installation; empty: unknown. `shared_directory`: where instances meet when the
        configuration names no directory. `devices`: accelerators that may be given; None: as many as are wanted,
        from 0. `tls`: what engines serve HTTP with; None: plain HTTP."""
        self.address = address
        self.python = python
        self.engine_version = engine_version
        self.shared_directory = shared_directory
        self.tls = tls
        self._devices: Iterator[int] = iter(devices) if devices is not None else count()
        self._port_is_free = port_is_free or is_unbound
        self._taken: set[int] = set()

    @property
    def address_in_url(self) -> str:
        """The address as a URL wants it: IPv6 in brackets."""
        return f"[{self.address}]" if ":" in self.address else self.address

    def url(self, port: int) -> str:
        """The URL of an engine's HTTP port."""
        return f"{'http' if self.tls is None else 'https'}://{self.address_in_url}:{port}"

    def take_port(self, preferred: int | None = None) -> int:
        """A TCP port free at this moment: the preferred one or the next free one after it."""
        return self.take_ports(1, preferred)

    def take_ports(self, number: int, preferred: int | None = None) -> int:
        """The first of `number` consecutive free ports, for engines that count up from a port by rank.

        Raises NoPortLeftError when there is no such run up to 65535.
        """
        start = preferred if preferred is not None and 0 < preferred <= 65535 else FIRST_PORT
        run: list[int] = []
        for port in range(start, 65536):
            if port in self._taken or not self._port_is_free(self.address, port):
                run.clear()
                continue
            run.append(port)
            if len(run) == number:
                self._taken.update(run)
                return run[0]
        raise NoPortLeftError(f"no {number} consecutive free ports from {start} up on {self.address}")

    def take_devices(self, number: int) -> tuple[int, ...]:
        """The next `number` accelerators; fewer when no more are left."""
        return tuple(islice(self._devices, number))

    def new_id(self) -> str:
        """See `plan.new_id`."""
        return new_id()

    def is_mixture_of_experts(self, model: str) -> bool | None:
        """Whether the model has experts, read from its `config.json`; None when that file is not here."""
        return has_experts(Path(model) / "config.json")


def can_listen(address: str, port: int) -> bool:
    """Whether a server could listen on the port now, on this address as on all interfaces."""
    family, everywhere = _family(address)
    return all(_binds(family, host, port, reuse=True) for host in (address, everywhere))


def is_unbound(address: str, port: int) -> bool:
    """Whether no socket is bound to the port, listening or not: vLLM binds long before it listens, in a way that
    lets others share the port. Stricter than `can_listen`: connections that wait for their end count too."""
    family, everywhere = _family(address)
    return all(_binds(family, host, port, reuse=False) for host in (address, everywhere))


def _family(address: str) -> tuple[socket.AddressFamily, str]:
    return (socket.AF_INET6, "::") if ":" in address else (socket.AF_INET, "0.0.0.0")


def _binds(family: socket.AddressFamily, host: str, port: int, *, reuse: bool) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def has_experts(model_config: Path) -> bool | None:
    """Whether a Hugging Face `config.json` describes a mixture of experts; None when it cannot be read."""
    try:
        content = json.loads(model_config.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    sections = [content, *(value for value in content.values() if isinstance(value, dict))]
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    numbers = [section.get(name) for section in sections for name in names]
    return any(isinstance(number, int) and number > 1 for number in numbers)
