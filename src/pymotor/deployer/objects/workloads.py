"""Deployments and StatefulSets, by themselves or as roles of an InferServiceSet."""

from __future__ import annotations

from typing import Any

from pymotor.config import EnvConfig, UserConfig
from pymotor.deployer.hardware import Hardware
from pymotor.deployer.naming import CONTROLLER, COORDINATOR, ENGINE_ROLES, NUMBER_LABEL, Manifest, Naming
from pymotor.deployer.objects.pods import engine_annotations, pod_template
from pymotor.deployer.objects.security import runs_engines
from pymotor.deployer.objects.services import role_services
from pymotor.deployer.options import RenderOptions
from pymotor.deployer.services_used import replicas_of

SET_API = "mindcluster.huawei.com/v1"
SET_KIND = "InferServiceSet"


class Workloads:
    """Builds the workloads of one configuration."""

    def __init__(
        self, user: UserConfig, env: EnvConfig, naming: Naming, hardware: Hardware, options: RenderOptions
    ) -> None:
        self._user = user
        self._env = env
        self._naming = naming
        self._hardware = hardware
        self._options = options

    def deployment(self, part: str, number: int | None = None) -> Manifest:
        """A part as a Deployment; `number`: of an engine instance, which has one of its own."""
        metadata = self._naming.metadata(self._naming.workload(part, number), part)
        if number is not None:
            metadata["labels"][NUMBER_LABEL] = str(number)
        self._mark(metadata, part)
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": self._spec(part, number)}

    def infer_service_set(self, parts: list[str]) -> Manifest:
        """All parts as roles of one set, whose operator makes an instance of each as often as the role says."""
        return {
            "apiVersion": SET_API,
            "kind": SET_KIND,
            "metadata": self._naming.metadata(self._naming.set_name, "all"),
            "spec": {"replicas": 1, "template": {"roles": [self._role(part) for part in parts]}},
        }

    def _role(self, part: str) -> dict[str, Any]:
        stateful = part in ENGINE_ROLES
        metadata: dict[str, Any] = {"labels": self._naming.labels(part)}
        self._mark(metadata, part)
        spec = self._spec(part, None)
        if stateful:
            spec.pop("strategy")
            # The pods of an instance wait for each other, so they start together.
            spec.update(serviceName=f"{self._naming.set_name}-{part}", podManagementPolicy="Parallel")
        role: dict[str, Any] = {
            "name": part,
            "replicas": self._user.instance_count(part) if stateful else 1,
            "workload": {"apiVersion": "apps/v1", "kind": "StatefulSet" if stateful else "Deployment"},
            "metadata": metadata,
            "spec": spec,
        }
        offered = role_services(self._user, self._naming, part)
        if offered:
            role["services"] = offered
        return role

    def _mark(self, metadata: dict[str, Any], part: str) -> None:
        """What MindCluster looks for on workloads with accelerators."""
        if runs_engines(part):
            metadata["labels"].update(self._hardware.labels)
            annotations = engine_annotations(self._user, self._hardware, part)
            if annotations:
                metadata["annotations"] = annotations

    def _spec(self, part: str, number: int | None) -> dict[str, Any]:
        selector = self._naming.selector(part)
        if number is not None:
            selector[NUMBER_LABEL] = str(number)
        return {
            "replicas": replicas_of(self._user, part),
            "selector": {"matchLabels": selector},
            "strategy": _strategy(part),
            "template": pod_template(self._user, self._env, self._naming, self._hardware, self._options, part, number),
        }


def _strategy(part: str) -> dict[str, Any]:
    """Engines have no devices for a second pod beside the first. Coordinators and Controllers are replaced without a
    gap: a Controller that stands by beside the leader is ready too."""
    if part in (CONTROLLER, COORDINATOR):
        return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    return {"type": "Recreate"}
