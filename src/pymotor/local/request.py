"""What `pymotor up` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pymotor.config.checks.ports import FIRST_LOCAL_PORT

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = FIRST_LOCAL_PORT

LocalEngine = Literal["sim", "vllm-cpu"]


@dataclass(frozen=True, kw_only=True)
class UpRequest:
    """One command line of `pymotor up`; paths are absolute."""

    user_config_path: Path
    env_config_path: Path | None
    engine: LocalEngine | None
    port: int
    """For clients' requests; the two after it are for management and metrics."""
    host: str
    """Where these three listen."""
    name: str
    start_deadline: float
    """Seconds for each process to become ready."""
    first_request: bool
    """Whether one request is sent, and its answer shown, before the fleet counts as up."""
