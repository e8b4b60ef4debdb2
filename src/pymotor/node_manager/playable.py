"""Which roles a node could play by its configuration, so that the Controller may give it another one."""

from __future__ import annotations

from pymotor.config import UserConfig
from pymotor.config.engine import EngineSection
from pymotor.engines.devices import visible_devices_variable
from pymotor.fleet import Role


def playable_roles(user: UserConfig, role: Role, devices: tuple[int, ...] | None) -> tuple[Role, ...]:
    """The roles of a node that was set up for `role`, that one among them; none where roles may not be switched.

    Another role counts where its engine is of the same kind, since the image has to have it, its instances have as
    many nodes, since instances are put together from nodes that are alike, and its ranks fit the node's `devices`
    (None: as many as are wanted).
    """
    own = user.engine_section(role.value)
    if own is None or not user.motor_controller_config.fault_tolerance_config.enable_role_switch:
        return ()
    nodes = user.pods_per_instance(role.value)
    found = []
    for other in Role:
        section = user.engine_section(other.value)
        if section is None or section.engine_type != own.engine_type or user.pods_per_instance(other.value) != nodes:
            continue
        if other is role or _fits(user, section, nodes, devices):
            found.append(other)
    return tuple(found) if len(found) > 1 else ()


def _fits(user: UserConfig, section: EngineSection, nodes: int, devices: tuple[int, ...] | None) -> bool:
    sizes = section.parallel_sizes()
    if sizes is None:
        return False
    hardware = user.motor_deploy_config.hardware_type or ""
    if devices is None or section.engine_type == "sim" or not visible_devices_variable(hardware):
        return True
    wanted, rest = divmod(sizes.devices, nodes)
    return not rest and wanted <= len(devices)
