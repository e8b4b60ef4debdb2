"""The project's own rules for objects: what no schema finds, nor the API server before half is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pymotor.config import Problem, UserConfig
from pymotor.deployer import check_names, check_pods, check_references
from pymotor.deployer.hardware import hardware_of
from pymotor.deployer.naming import Manifest
from pymotor.deployer.objects.resources import devices_of
from pymotor.deployer.walk import mapping, workloads

Rule = Callable[[Sequence[Manifest]], Iterator[Problem]]

RULES: tuple[Rule, ...] = (
    check_names.complete,
    check_names.unique,
    check_names.legal,
    check_names.labels_legal,
    check_names.sizes,
    check_references.selectors,
    check_references.services_reach,
    check_references.node_ports,
    check_references.budgets_reach,
    check_references.mentioned,
    check_references.accounts,
    check_pods.containers,
    check_pods.images,
    check_pods.ports,
    check_pods.probes,
    check_pods.environment,
    check_pods.mounts,
    check_pods.host_paths,
    check_pods.amounts,
)


def check_manifests(manifests: Sequence[Manifest], expected: Sequence[str] = ()) -> list[Problem]:
    """Every problem of these objects. `expected`: Secrets and claims that are in the cluster already, as `Secret/x`.

    A problem's file is the object (`Deployment/vllm-p0`), its path the place in it.
    """
    references = [one for one in RULES if one is not check_references.mentioned]
    problems = [problem for rule in references for problem in rule(manifests)]
    return [*problems, *check_references.mentioned(manifests, expected)]


def check_devices(manifests: Sequence[Manifest], user: UserConfig) -> list[Problem]:
    """Pods whose devices are not as many as the configuration counts, as a patch may have left them."""
    resource = hardware_of(user).resource
    problems = []
    for workload in workloads(manifests):
        wanted = devices_of(user, workload.part) if resource else 0
        limits = [mapping(mapping(one.get("resources")).get("limits")) for one in workload.containers]
        have = sum(int(str(limit.get(resource, "0"))) for limit in limits if str(limit.get(resource, "0")).isdecimal())
        if have != wanted:
            problems.append(
                Problem.error(
                    workload.file,
                    f"{workload.path}.template.spec.containers",
                    f"a pod of {workload.part} has {have} devices, and engines count on {wanted}",
                    suggestion="take the device out of the patch, and write its number into motor_deploy_config",
                )
            )
    return problems
