"""The hand-written table of failures as data: `failure_table.txt`, which says what its words mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pymotor.fleet import Role

TABLE = Path(__file__).with_name("failure_table.txt")

STAGES = {"E": Role.ENCODE, "P": Role.PREFILL, "D": Role.DECODE, "U": Role.UNION}

FAULTS = {
    "refuse": "",
    "500": "error:code=500",
    "400": "error:code=400",
    "hang": "hang",
    "reset": "reset",
    "late_error": "late_error",
    "slow": "slow:seconds=0.1",
    "cut": "cut:after=3",
    "stall": "stall:after=3",
    "kv_fail": "kv_fail",
    "kv_push_lost": "kv_push_lost",
    "recomputed": "recomputed:after=3",
    "callback_late": "callback_late:seconds=0.2",
    "callback_twice": "callback_twice",
    "callback_never": "callback_never",
    "callback_unknown": "callback_unknown",
}
"""How a simulated engine is told; empty: its process is killed, so that nobody listens."""


@dataclass(frozen=True)
class Flow:
    """A fleet that takes requests one way."""

    roles: tuple[Role, ...]
    kv_connector: str = ""

    @property
    def media(self) -> bool:
        """Whether its requests have an image."""
        return Role.ENCODE in self.roles

    @property
    def together(self) -> bool:
        """Whether prefill and decode run at the same time."""
        return self.kv_connector in ("MooncakeLayerwiseConnector", "MooncakeConnector", "sglang")


FLOWS = {
    "union": Flow((Role.UNION,)),
    "encode-union": Flow((Role.ENCODE, Role.UNION)),
    "pull": Flow((Role.PREFILL, Role.DECODE), "NixlConnector"),
    "encode-pull": Flow((Role.ENCODE, Role.PREFILL, Role.DECODE), "NixlConnector"),
    "store": Flow((Role.PREFILL, Role.DECODE), "ExampleConnector"),
    "callback": Flow((Role.PREFILL, Role.DECODE), "MooncakeLayerwiseConnector"),
    "encode-callback": Flow((Role.ENCODE, Role.PREFILL, Role.DECODE), "MooncakeLayerwiseConnector"),
    "paired": Flow((Role.PREFILL, Role.DECODE), "MooncakeConnector"),
    "bootstrap": Flow((Role.PREFILL, Role.DECODE), "sglang"),
}


@dataclass(frozen=True)
class Cell:
    """One request that one fault strikes."""

    flow: str
    stage: str
    fault: str
    everywhere: bool
    """Whether it strikes all endpoints of the stage, always; else one of them, once."""
    stream: bool
    expected: str

    @property
    def name(self) -> str:
        """For people who read a test's output."""
        reach = "all" if self.everywhere else "one"
        return f"{self.flow}-{self.stage}-{self.fault}-{reach}-{'stream' if self.stream else 'whole'}"


def read_table() -> list[Cell]:
    """Every cell. Raises `ValueError` for a line that is none."""
    cells = []
    for line in TABLE.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        where, *expected = (field.strip() for field in line.split("|"))
        try:
            flow, stage, fault = where.split()
            FLOWS[flow], STAGES[stage], FAULTS[fault]
            columns = ((False, False), (False, True), (True, False), (True, True))
            cells += [
                Cell(flow, stage, fault, everywhere, stream, outcome)
                for (everywhere, stream), outcome in zip(columns, expected, strict=True)
                if outcome != "-"
            ]
        except (KeyError, ValueError) as error:
            raise ValueError(f"{TABLE.name}: {line!r}") from error
    return cells
