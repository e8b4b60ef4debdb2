"""One role's engine as the checks see it: its options, its transfer settings, where they stand in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.config import ABSENT, EngineSection, Problem, UserConfig, json_path
from pymotor.config.user import ROLES
from pymotor.engines.plan import PlanError
from pymotor.engines.transfer import as_object
from pymotor.fleet import Role


@dataclass(frozen=True)
class CheckedEngine:
    """The engine section of a role."""

    role: Role
    section: EngineSection
    options: Mapping[str, Any]
    """engine_config with underscored keys."""
    file: str

    @property
    def type(self) -> str:
        """`vllm`, `sglang` or `sim`."""
        return self.section.engine_type

    def setting(self, option: str) -> Mapping[str, Any] | None:
        """A transfer setting as an object; None where there is none or it is no object."""
        try:
            return as_object(option, self.options.get(option))
        except PlanError:
            return None

    def path(self, option: str = "", *inside: str | int) -> str:
        """The JSON path of an option, or of something inside it, as the user spelled it."""
        place = (self.section.written(option), *inside) if option else ()
        return json_path((f"motor_engine_{self.role.value}_config", "engine_config", *place))

    def error(self, message: str, option: str = "", *inside: str | int, allowed: str = "", do: str = "") -> Problem:
        """Something that must be mended."""
        value = self.value(option, *inside)
        path = self.path(option, *inside)
        return Problem.error(self.file, path, message, value=value, allowed=allowed, suggestion=do)

    def warning(self, message: str, option: str = "", *inside: str | int, allowed: str = "", do: str = "") -> Problem:
        """Something that is probably not meant."""
        value = self.value(option, *inside)
        path = self.path(option, *inside)
        return Problem.warning(self.file, path, message, value=value, allowed=allowed, suggestion=do)

    def value(self, option: str, *inside: str | int) -> object:
        """What stands at an option or inside it; ABSENT where nothing does."""
        found: object = self.options.get(option, ABSENT) if option else ABSENT
        for step in inside:
            if isinstance(found, Mapping):
                found = found.get(step, ABSENT)
            elif isinstance(found, list) and isinstance(step, int) and step < len(found):
                found = found[step]
            else:
                return ABSENT
        return found


def checked_engines(user: UserConfig, file: str) -> dict[Role, CheckedEngine]:
    """The engines of a configuration, by role."""
    sections = {Role(role): user.engine_section(role) for role in ROLES}
    return {
        role: CheckedEngine(role, section, section.options, file)
        for role, section in sections.items()
        if section is not None
    }
