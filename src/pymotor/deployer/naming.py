"""What objects of one deployment are called, and the labels by which they find each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.config import UserConfig
from pymotor.config.user import DEPLOY_LETTER, ROLES

Manifest = dict[str, Any]
"""A whole Kubernetes object."""

CONTROLLER, COORDINATOR, KV_POOL, KV_CONDUCTOR, SINGLE = (
    "controller",
    "coordinator",
    "kv-pool",
    "kv-conductor",
    "single-container",
)
ENGINE_ROLES: tuple[str, ...] = ROLES
PARTS: tuple[str, ...] = (CONTROLLER, COORDINATOR, *ENGINE_ROLES, KV_POOL, KV_CONDUCTOR, SINGLE)
"""All that pods are for; also the names of the roles of an InferServiceSet."""

INSTANCE_LABEL = "app.kubernetes.io/instance"
PART_LABEL = "app.kubernetes.io/component"
MANAGER_LABEL = "app.kubernetes.io/managed-by"
NUMBER_LABEL = "pymotor/instance-number"
MANAGER = "pymotor"
CREATE_ONLY = "pymotor/create-only"
"""Annotation of what is created where it is missing and then left alone, as the cluster's token."""

CONFIG_MAP = "motor-config"
TOKEN_SECRET = "motor-cluster-token"  # noqa: S105  the name of an object
TOKEN_KEY = "token"  # noqa: S105


@dataclass(frozen=True)
class Naming:
    """The names of one deployment."""

    namespace: str
    mode: str
    """`deploy_mode`."""
    set_name: str
    """Of the InferServiceSet."""
    engine: str
    """How names of engines begin outside of a set: the engine's type."""

    @classmethod
    def of(cls, user: UserConfig) -> Naming:
        """The names that a configuration leads to."""
        deploy = user.motor_deploy_config
        sections = (user.engine_section(role) for role in ENGINE_ROLES if user.instance_count(role))
        engine = next((section.engine_type for section in sections if section is not None), "vllm")
        return cls(deploy.job_id, deploy.deploy_mode, deploy.kubernetes_config.infer_service_name, engine)

    @property
    def in_set(self) -> bool:
        """Whether all parts are roles of one InferServiceSet."""
        return self.mode == "infer_service_set"

    def metadata(self, name: str, part: str, namespace: str | None = None) -> dict[str, Any]:
        """Metadata of an object of the namespace, or of another one."""
        return {"name": name, "namespace": namespace or self.namespace, "labels": self.labels(part)}

    def cluster_metadata(self, name: str, part: str) -> dict[str, Any]:
        """Metadata of an object that belongs to no namespace: its name says whose it is."""
        return {"name": f"{name}-{self.namespace}", "labels": self.labels(part)}

    def labels(self, part: str) -> dict[str, str]:
        """Labels of each object."""
        return {"app.kubernetes.io/name": "pymotor", **self.selector(part), MANAGER_LABEL: MANAGER}

    def selector(self, part: str) -> dict[str, str]:
        """Labels by which the pods of a part are found."""
        return {INSTANCE_LABEL: self.namespace, PART_LABEL: part}

    def workload(self, part: str, number: int | None = None) -> str:
        """The workload of a part outside of a set; `number`: of an engine instance."""
        if part in ENGINE_ROLES:
            return f"{self.engine}-{letter(part)}{number}"
        if part == SINGLE:
            return f"{self.namespace}-single-container"
        return f"mindie-motor-{part}"

    def service(self, part: str, purpose: str) -> str:
        """The name of a Service as it is in the cluster: a set's operator puts its own words behind it."""
        name = self.service_stem(part, purpose)
        return f"{name}-{self.set_name}-0-{part}" if self.in_set else name

    def service_stem(self, part: str, purpose: str) -> str:
        """The name of a Service as it is written in a set's role."""
        if part == SINGLE:
            return f"{self.namespace}-coordinator-service"
        return _SERVICES[part, purpose][0 if self.in_set else 1]

    def address(self, part: str, purpose: str) -> str:
        """Where pods find a Service."""
        return f"{self.service(part, purpose)}.{self.namespace}.svc"


_SERVICES: Mapping[tuple[str, str], tuple[str, str]] = {
    (CONTROLLER, "api"): ("mindie-motor-service", "mindie-motor-controller-service"),
    (CONTROLLER, "alarms"): ("mindie-motor-observability", "mindie-motor-controller-observability-service"),
    (COORDINATOR, "infer"): ("mindie-motor-infer", "mindie-motor-coordinator-infer"),
    (COORDINATOR, "management"): ("mindie-motor-mgmt", "mindie-motor-coordinator-mgmt"),
    (COORDINATOR, "observability"): ("mindie-motor-obs", "mindie-motor-coordinator-obs"),
    (KV_POOL, "pool"): ("kvp-master", "kvp-master"),
    (KV_CONDUCTOR, "conductor"): ("kv-conductor", "kv-conductor"),
}
"""By part and purpose: in a set, and outside of one."""


def letter(role: str) -> str:
    """`e`, `p`, `d` or `u`, as names of engines have it."""
    return "u" if role == "union" else DEPLOY_LETTER[role]


def environment_map(part: str) -> str:
    """The ConfigMap with a part's variables of env.json."""
    return f"motor-env-{part}"


def controller_lease(lock_key: str) -> str:
    """The Lease by which Controllers agree on a leader, as `pymotor controller --lease kubernetes` names it."""
    return "pymotor-controller-" + (re.sub(r"[^a-z0-9]+", "-", lock_key.lower()).strip("-") or "lock")
