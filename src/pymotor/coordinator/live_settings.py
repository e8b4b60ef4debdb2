"""What a running Coordinator takes up of a changed `user_config.json`, and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pymotor.config import ConfigState, LiveConfig, UserConfig, follow
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.worker_pool import WorkerPool
from pymotor.telemetry.logs import set_log_level
from pymotor.telemetry.metrics import Family, Sample


class LiveSettings(NamedTuple):
    """What of the configuration may change."""

    settings: Settings
    log_level: str


class SettingsWatch:
    """Follows the file for the workers of one Coordinator."""

    def __init__(self, config: LiveConfig, settings_of: Callable[[UserConfig], LiveSettings]) -> None:
        """`settings_of`: what a configuration and the command line say together."""
        self._config = config
        self._settings_of = settings_of

    @property
    def state(self) -> ConfigState:
        """What is in force: in all workers."""
        return self._config.state

    async def follow(self, pool: WorkerPool) -> None:
        """Until cancelled."""

        async def apply(user: UserConfig) -> None:
            found = self._settings_of(user)
            set_log_level(found.log_level)
            await pool.set_settings(found.settings, found.log_level)

        await follow(self._config, apply)


def config_metrics(state: ConfigState) -> Iterable[Family]:
    """Which configuration is in force, and whether the newest is not."""
    yield _family(
        "pymotor_config_info",
        "gauge",
        "1 for the SHA-256 of the user_config.json in force.",
        Sample((state.revision,), 1.0),
        ("revision",),
    )
    yield _family(
        "pymotor_config_refused", "gauge", "1 while user_config.json is not in force.", _plain(state.error is not None)
    )
    yield _family(
        "pymotor_config_needs_restart_keys",
        "gauge",
        "Changed keys that need a restart of the Coordinator.",
        _plain(len(state.needs_restart)),
    )
    yield _family(
        "pymotor_config_taken_total",
        "counter",
        "Changes of user_config.json that came into force.",
        _plain(state.taken),
    )


def _plain(value: float) -> Sample:
    return Sample((), float(value))


def _family(name: str, kind: str, help_text: str, sample: Sample, labels: tuple[str, ...] = ()) -> Family:
    return Family(name=name, kind=kind, help=help_text, labels=labels, samples=(sample,))
