"""Which accelerators of this machine each node has; nobody else would keep NodeManagers of one machine apart."""

from __future__ import annotations

import itertools

from pymotor.config import UserConfig
from pymotor.engines.devices import visible_devices_variable
from pymotor.fleet import Role


class Accelerators:
    """Gives each node a run of its own, the lowest that is free, and takes it back."""

    def __init__(self, user: UserConfig) -> None:
        self._user = user
        self._taken: set[int] = set()

    def take(self, role: Role) -> tuple[int, ...]:
        """Those of one more node of a role; none on hardware without."""
        section = self._user.engine_section(role.value)
        sizes = section.parallel_sizes() if section is not None else None
        if sizes is None or not visible_devices_variable(self._user.motor_deploy_config.hardware_type or ""):
            return ()
        runs = (range(first, first + sizes.devices) for first in itertools.count())
        devices = next(run for run in runs if self._taken.isdisjoint(run))
        self._taken.update(devices)
        return tuple(devices)

    def give_back(self, devices: tuple[int, ...]) -> None:
        """The node that had them has ended."""
        self._taken.difference_update(devices)
