"""What a running Controller takes up of a changed `user_config.json`."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pymotor.config import ConfigState, LiveConfig, UserConfig, follow
from pymotor.controller.oversight import Oversight, oversight_from
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import settings_from
from pymotor.telemetry.logs import set_log_level


class ConfigWatch:
    """Follows the file of one Controller."""

    def __init__(self, config: LiveConfig, *, stated_level: str | None, stands_by: bool) -> None:
        """`stated_level`: what the command line says of the log, which wins. `stands_by`: whether another Controller
        may lead."""
        self._config = config
        self._stated_level = stated_level
        self._stands_by = stands_by

    @property
    def state(self) -> ConfigState:
        """What is in force."""
        return self._config.state

    async def follow(
        self, service: ControllerService, oversight: Oversight, listen: Callable[[int], socket.socket]
    ) -> None:
        """Until cancelled. `listen` takes the port of the observability API; it raises `NotAppliedError`."""

        async def apply(user: UserConfig) -> None:
            set_log_level(self._stated_level or user.motor_controller_config.logging_config.log_level)
            service.use(settings_from(user))
            await oversight.use(oversight_from(user, stands_by=self._stands_by), listen)

        await follow(self._config, apply)
