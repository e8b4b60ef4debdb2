"""From the configuration to Kubernetes objects."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config import EnvConfig, UserConfig
from pymotor.deployer.hardware import hardware_of
from pymotor.deployer.naming import ENGINE_ROLES, Manifest, Naming
from pymotor.deployer.objects.budgets import disruption_budget
from pymotor.deployer.objects.config_maps import environments, motor_config
from pymotor.deployer.objects.rbac import accounts
from pymotor.deployer.objects.secrets import secrets
from pymotor.deployer.objects.services import services
from pymotor.deployer.objects.workloads import Workloads
from pymotor.deployer.options import RenderOptions
from pymotor.deployer.services_used import parts_of

__all__ = ["Manifest", "RenderOptions", "render"]


def render(user: UserConfig, env: EnvConfig, options: RenderOptions) -> list[Manifest]:
    """The objects of a deployment in the order in which to apply them: what others refer to comes first.

    Pure: the same input gives the same objects, and nothing is read. The configuration has to be free of errors.
    """
    return list(_objects(user, env, options))


def _objects(user: UserConfig, env: EnvConfig, options: RenderOptions) -> Iterator[Manifest]:
    naming = Naming.of(user)
    parts = list(parts_of(user))
    workloads = Workloads(user, env, naming, hardware_of(user), options)
    yield from accounts(user, naming)
    yield from secrets(user, naming, options)
    yield motor_config(user, env, naming, options)
    yield from environments(env, naming, parts)
    for part in parts:
        yield disruption_budget(naming, part)
    if naming.in_set:
        yield workloads.infer_service_set(parts)
        return
    for part in parts:
        yield from services(user, naming, part)
        if part in ENGINE_ROLES:
            for number in range(user.instance_count(part)):
                yield workloads.deployment(part, number)
        else:
            yield workloads.deployment(part)
