"""`plan_instance`: from the configuration to the servers of one engine instance and its entry in the fleet."""

from __future__ import annotations

from pymotor.config import EnvConfig, UserConfig
from pymotor.engines.host import HostResources
from pymotor.engines.parts import WHOLE, InstancePart
from pymotor.engines.plan import InstancePlan, PlanError
from pymotor.engines.plan_sglang import plan_sglang
from pymotor.engines.plan_vllm import plan_vllm
from pymotor.engines.request import PlanRequest
from pymotor.fleet import Role


def plan_instance(
    user: UserConfig, env: EnvConfig, role: Role, index: int, host: HostResources, part: InstancePart = WHOLE
) -> InstancePlan:
    """Plan what one host has of instance number `index` of a role: all of it, or its `part`. Starts nothing.

    Ports, devices and identities are taken from `host`. The entry in the fleet has the endpoints of this host only.
    Raises PlanError when the configuration cannot become such an instance.
    """
    section = user.engine_section(role.value)
    if section is None:
        raise PlanError(f"there is no motor_engine_{role.value}_config, so no {role.value} instance can be started")
    sizes = section.parallel_sizes()
    if sizes is None:
        raise PlanError(f"the parallel sizes in motor_engine_{role.value}_config.engine_config must be numbers from 1")
    request = PlanRequest(
        user=user,
        section=section,
        sizes=sizes,
        options=section.options,
        variables=env.variables(role.value),
        role=role,
        name=f"{role.value}-{index}",
        host=host,
        part=part,
    )
    try:
        return plan_sglang(request) if section.engine_type == "sglang" else plan_vllm(request)
    except PlanError as fault:
        raise PlanError(f"{request.name}: {fault}") from fault
