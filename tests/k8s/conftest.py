"""A cluster of the user's: where it is, what runs there, and a namespace that is gone afterwards.

KUBECONFIG=~/.kube/config PYMOTOR_K8S_IMAGE=registry/pymotor:cpu python -m pytest tests/k8s

KUBECONFIG               the cluster; the user must be able to make namespaces and cluster roles
PYMOTOR_K8S_IMAGE        an image that was made with the Containerfile, on all nodes or where they can pull it
PYMOTOR_K8S_HOSTPATH     a directory that all nodes share, for embeddings; without it all pods are on one node, and
                         /tmp/pymotor-k8s of that one is left behind
PYMOTOR_K8S_NODE         the address of a node that is reached from here; without it those that the nodes say are
                         tried, then a port is forwarded
PYMOTOR_K8S_NODE_PORT    a free port of the nodes (31815), and the two after it
PYMOTOR_K8S_MODES        which modes (infer_service_set,multi_deployment)

With kind, on a machine with Docker:

kind create cluster --kubeconfig /tmp/kind.yaml
docker build -f Containerfile -t pymotor:cpu . && kind load docker-image pymotor:cpu
KUBECONFIG=/tmp/kind.yaml PYMOTOR_K8S_IMAGE=pymotor:cpu PYMOTOR_K8S_MODES=multi_deployment python -m pytest tests/k8s
"""

from __future__ import annotations

import os
import shutil

import pytest

RUN_IT = (
    "NOT TESTED ON A CLUSTER: run it with KUBECONFIG=FILE PYMOTOR_K8S_IMAGE=IMAGE python -m pytest tests/k8s; "
    "tests/k8s/conftest.py says what else there is"
)


@pytest.fixture(scope="session", autouse=True)
def _cluster_or_skip() -> None:
    missing = [name for name in ("KUBECONFIG", "PYMOTOR_K8S_IMAGE") if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not set. {RUN_IT}")
    # Whoever names a cluster wants it to be tested.
    assert shutil.which("kubectl"), "KUBECONFIG and PYMOTOR_K8S_IMAGE are set, and there is no kubectl on PATH"
