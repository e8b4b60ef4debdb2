"""Typed access to the fields of a JSON request, refusing what vLLM's models refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymotor.engines.sim.errors import RequestError

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def invalid(name: str, problem: str) -> RequestError:
    """The refusal of a field as a validation of the body reports it."""
    return RequestError(f"1 validation error:\n  {problem}: body.{name}", kind="Bad Request", param=f"body.{name}")


class Fields:
    """A JSON object with typed getters. A null counts as left out."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body

    def boolean(self, name: str, default: bool = False) -> bool:
        """A flag. Raises `RequestError` for anything but true, false or null."""
        value = self.body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid(name, "Input should be a valid boolean")
        return value

    def integer(self, name: str, default: int | None = None, low: int = INT64_MIN, high: int = INT64_MAX) -> int | None:
        """A whole number within bounds."""
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid(name, "Input should be a valid integer")
        if not low <= value <= high:
            raise RequestError(f"{name} must be between {low} and {high}, got {value}.", param=name)
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = self.body.get(name)
        if value is None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise invalid(name, "Input should be a valid number")
        if not low <= value <= high:
            raise RequestError(f"{name} must be in [{low}, {high}], got {value}.", param=name)
        return float(value)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.body.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(name, "Input should be a valid string")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """An object."""
        value = self.body.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid(name, "Input should be a valid dictionary")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """A string or a list of strings."""
        value = self.body.get(name)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise invalid(name, "Input should be a valid string or list of strings")
        return tuple(values)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self.body.get(name)
        if value is None:
            return ()
        if not is_integers(value):
            raise invalid(name, "Input should be a valid list of integers")
        return tuple(value)


def is_integers(value: Any) -> bool:
    """Whether a value is a list of whole numbers."""
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
