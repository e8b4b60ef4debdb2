"""How many pods of a part may be taken away at once when nodes are emptied."""

from __future__ import annotations

from pymotor.deployer.naming import Manifest, Naming


def disruption_budget(naming: Naming, part: str) -> Manifest:
    """One at a time, of all instances of the part together."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": naming.metadata(f"mindie-motor-{part}", part),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": naming.selector(part)}},
    }
