"""What the command line asks to be done with the objects in a cluster: the meeting point of both halves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pymotor.config import EnvConfig, UserConfig


@dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """One call of `deploy.py` that touches a cluster. Without a flag: deploy."""

    user: UserConfig
    env: EnvConfig
    namespace: str
    """`job_id`: the namespace, and the name of the deployment."""
    home: Path
    """The directory of `deploy.py`: `output_yamls/`, `log_collect/`, `show_log.sh` are there."""
    output: Path
    """The directory of the written YAML files."""
    diff: bool = False
    """Show what would change in the cluster, change nothing."""
    update_instance_num: bool = False
    """Change the number of instances, and nothing else."""
    update_config: bool = False
    """Change keys that may change while the fleet runs, and nothing else."""
    wait: bool = False
    """Follow the rollout until a request is answered, an update of the configuration until all parts run with it."""
    recreate: bool = False
    """Delete workloads whose pods have an old template, one after the other, where nobody else rolls it out."""
    auto_log_collect: bool = False
    """Collect the logs of all pods from now on."""
    timeout: float = 1800.0
    """Seconds that `wait` and `recreate` wait at most."""
    drain_seconds: float = 600.0
    """How long requests of one instance may still take when it is to go."""
    poll_seconds: float = 2.0
    """Pause between two looks at the cluster."""

    @property
    def controller_port(self) -> int:
        """Where the Controller's pod listens."""
        return self.user.motor_controller_config.api_config.controller_api_port

    @property
    def inference_port(self) -> int:
        """Where the Coordinator's pod hears clients."""
        return self.user.motor_coordinator_config.api_config.coordinator_api_infer_port


class DeployError(Exception):
    """A step cannot be done; the message says why and what to do."""
