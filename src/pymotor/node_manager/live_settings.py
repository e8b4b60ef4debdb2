"""What a running NodeManager takes up of a changed `user_config.json`."""

from __future__ import annotations

from pymotor.config import ConfigState, LiveConfig, UserConfig, follow
from pymotor.config.engine import HealthCheckConfig
from pymotor.fleet import Role
from pymotor.node_manager.manager import NodeManager
from pymotor.node_manager.settings import heartbeat_of
from pymotor.telemetry.logs import set_log_level


class ConfigWatch:
    """Follows the files of one NodeManager."""

    def __init__(self, config: LiveConfig, user: UserConfig, role: Role, *, stated_level: str | None) -> None:
        """`user`: as the NodeManager was started; `stated_level`: what the command line says of the log, which wins."""
        self._config = config
        self._user = user
        self._role = role
        self._stated_level = stated_level

    @property
    def state(self) -> ConfigState:
        """What is in force."""
        return self._config.state

    def health_of(self, role: Role) -> HealthCheckConfig:
        """How a role's engines are watched now."""
        section = self._user.engine_section(role.value)
        return section.health_check_config if section is not None else HealthCheckConfig()

    async def follow(self, manager: NodeManager) -> None:
        """Until cancelled."""

        async def apply(user: UserConfig) -> None:
            self._user = user
            section = user.engine_section(self._role.value)
            assert section is not None
            own = section.motor_nodemanger_config
            set_log_level(self._stated_level or own.logging_config.log_level)
            manager.set_heartbeat(heartbeat_of(own))

        await follow(self._config, apply)
