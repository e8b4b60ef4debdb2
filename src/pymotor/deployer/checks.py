"""The project's own rules for objects: what neither a schema nor the API server finds, or only after half is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pymotor.config import Problem
from pymotor.deployer import check_names, check_pods, check_references
from pymotor.deployer.naming import Manifest

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
