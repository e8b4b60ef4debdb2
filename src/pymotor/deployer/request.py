"""What the command line asks to be done with the objects in a cluster: the meeting point of both halves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pymotor.config import EnvConfig, UserConfig


@dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """One call of `deploy.py` that touches a cluster."""

    user: UserConfig
    env: EnvConfig
    namespace: str
    """`job_id`; it has to exist."""
    home: Path
    """The directory of `deploy.py`: `output_yamls/`, `log_collect/`, `show_log.sh` are there."""
    output: Path
    """The directory of the written YAML files."""
    diff: bool = False
    """Show what would change in the cluster, change nothing."""
    wait: bool = False
    """Follow the rollout until a request is answered."""
    recreate: bool = False
    """Delete workloads whose template changed, where nobody else rolls it out."""
    auto_log_collect: bool = False
    timeout: float = 1800.0
    """Seconds that `wait` waits at most."""
