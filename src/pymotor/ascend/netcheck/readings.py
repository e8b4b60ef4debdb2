"""What was read on a node, as the tools printed it: the content of a file of `pymotor netcheck collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from pymotor.ascend.devices import Generation


class ReadingsError(Exception):
    """A file that is not one of `pymotor netcheck collect`; the text says which, why and what to do."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command (or file, or connection): its exit status and text, or in `problem` why there are none."""

    output: str = ""
    status: int | None = None
    problem: str = ""
    command: tuple[str, ...] = ()


class DeviceReadings(msgspec.Struct, frozen=True):
    """The steps of one device, by name."""

    device: int
    steps: dict[str, Outcome]


class PingReading(msgspec.Struct, frozen=True):
    """A ping from a device of this node to one of another node; `to_device` is None where its number is unknown."""

    device: int
    to_node: str
    to_device: int | None
    address: str
    outcome: Outcome


class ConnectReading(msgspec.Struct, frozen=True):
    """A TCP connection from this node; `outcome.problem` is "" where it came about."""

    host: str
    port: int
    outcome: Outcome


class NodeReadings(msgspec.Struct, frozen=True):
    """One node.

    `without_pings`: none were asked for. `trouble`: why nothing could be read of the node (it cannot be reached, it has
    no hccn_tool).
    """

    node: str
    generation: Generation = "A2"
    config: Outcome | None = None
    devices: tuple[DeviceReadings, ...] = ()
    pings: tuple[PingReading, ...] = ()
    connects: tuple[ConnectReading, ...] = ()
    without_pings: bool = False
    trouble: str = ""
    format: Literal["pymotor-netcheck-1"] = "pymotor-netcheck-1"


def to_json(readings: NodeReadings) -> bytes:
    """One node's readings as indented JSON, ending with a newline."""
    return msgspec.json.format(msgspec.json.encode(readings), indent=1) + b"\n"


def read_readings(path: Path) -> NodeReadings:
    """A file of `pymotor netcheck collect`; raises ReadingsError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=NodeReadings)
    except OSError as error:
        raise ReadingsError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReadingsError(f"{path}: not a file of `pymotor netcheck collect` ({error})") from error
