"""What is to be planned: one instance's part of the configuration, read once for all engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from pymotor.config import EngineSection, UserConfig
from pymotor.config.engine import ParallelSizes
from pymotor.engines.host import HostResources
from pymotor.engines.parts import WHOLE, InstancePart
from pymotor.engines.plan import PlanError
from pymotor.fleet import Role

_THOUSANDS = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """One instance to plan."""

    user: UserConfig
    section: EngineSection
    sizes: ParallelSizes
    options: dict[str, Any]
    """engine_config with underscored keys."""
    variables: dict[str, str]
    """The role's environment from env.json."""
    role: Role
    name: str
    host: HostResources
    part: InstancePart = WHOLE
    """Which of the instance's nodes this is."""

    @property
    def engine(self) -> str:
        """`vllm`, `sglang` or `sim`."""
        return self.section.engine_type

    @property
    def hardware(self) -> str:
        """`cpu`, `gpu` or the name of an Ascend product, empty where nobody said; `cpu` for the simulated engine."""
        return "cpu" if self.engine == "sim" else self.user.motor_deploy_config.hardware_type or ""

    @property
    def engine_version(self) -> str:
        """The installed version, empty where it is unknown; the simulated engine comes with PyMotor."""
        return "" if self.engine == "sim" else self.host.engine_version

    def model(self, option: str) -> str:
        """The model's path. Raises PlanError when there is none."""
        model = self.options.get(option)
        if not isinstance(model, str) or not model:
            raise PlanError(f"engine_config names no {option}: give the path of the model")
        return model

    def served_names(self, model: str) -> tuple[str, ...]:
        """What clients call the model."""
        stated = self.options.get("served_model_name") or model
        return tuple(str(name) for name in stated) if isinstance(stated, list) else (str(stated),)

    def adapter_names(self) -> tuple[str, ...]:
        """What clients call the LoRA adapters that vLLM loads at its start: `lora_modules`, each `name=path`, an object
        or its JSON. What is none of these the engine itself refuses."""
        stated = self.options.get("lora_modules")
        each = stated if isinstance(stated, list) else [stated]
        return tuple(name for name in map(_adapter_name, each) if name)


def _adapter_name(stated: object) -> str:
    if isinstance(stated, str) and stated.lstrip().startswith("{"):
        try:
            stated = msgspec.json.decode(stated)
        except msgspec.DecodeError:
            return ""
    if isinstance(stated, dict):
        return str(stated.get("name") or "")
    return stated.partition("=")[0].strip() if isinstance(stated, str) and "=" in stated else ""


def token_count(value: object) -> int | None:
    """A number of tokens as engines take it (`4096`, `"128k"`, `"1M"`); None for "auto" and the like."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value > 0 else None
    if not isinstance(value, str) or not value:
        return None
    factor = _THOUSANDS.get(value[-1])
    number = value[:-1] if factor else value
    try:
        return int(float(number) * (factor or 1)) or None
    except (ValueError, OverflowError):
        return None
