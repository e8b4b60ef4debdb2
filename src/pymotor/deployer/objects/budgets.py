"""How many pods of a part may be taken away at once when nodes are emptied."""

from __future__ import annotations

from pymotor.config import UserConfig
from pymotor.deployer.naming import CONTROLLER, Manifest, Naming
from pymotor.deployer.services_used import replicas_of


def disruption_budget(user: UserConfig, naming: Naming, part: str) -> Manifest:
    """One at a time. A Controller may always go: only the leader is ready, so a stricter budget would never let its
    node be emptied, and all others go on without it until the next one leads."""
    allowed = replicas_of(user, part) if part == CONTROLLER else 1
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": naming.metadata(f"mindie-motor-{part}", part),
        "spec": {"maxUnavailable": allowed, "selector": {"matchLabels": naming.selector(part)}},
    }
