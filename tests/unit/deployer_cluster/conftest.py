"""An empty cluster, played by the fake `kubectl`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_played import NAMESPACE, Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """An empty cluster with the namespace."""
    made = Cluster(tmp_path / "cluster")
    for name in (NAMESPACE, "kube-system"):
        made.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return made
