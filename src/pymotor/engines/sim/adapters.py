"""LoRA adapters as the command line names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that clients ask for by its name."""

    name: str
    number: int
    """From 1 up, in the order of the command line."""
    path: str
