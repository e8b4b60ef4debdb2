"""What users write, typed and checked: `user_config.json` and `env.json`."""

from pymotor.config.engine import EngineSection, ParallelSizes, option_name
from pymotor.config.env import EnvConfig
from pymotor.config.live import ConfigState, LiveConfig, NotAppliedError, follow
from pymotor.config.live_keys import Part
from pymotor.config.load import LoadedConfig, load_config
from pymotor.config.problems import ABSENT, Problem, Severity, json_path, nearest, show_value
from pymotor.config.user import UserConfig

__all__ = [
    "ABSENT",
    "ConfigState",
    "EngineSection",
    "EnvConfig",
    "LiveConfig",
    "LoadedConfig",
    "NotAppliedError",
    "ParallelSizes",
    "Part",
    "Problem",
    "Severity",
    "UserConfig",
    "follow",
    "json_path",
    "load_config",
    "nearest",
    "option_name",
    "show_value",
]
