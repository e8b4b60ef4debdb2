"""A JSON object against a model: every problem in it, and the best model that can be had in spite of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pymotor.config.engine import SGLANG_OPTIONS, VLLM_OPTIONS, option_name
from pymotor.config.env import VARIABLE_NAME, EnvConfig
from pymotor.config.kubernetes import ABSOLUTE_PATH
from pymotor.config.problems import ABSENT, Location, Problem, json_path, nearest
from pymotor.config.schema import describe, json_schema, known_keys, places_of_keys, schema_at
from pymotor.config.section import keys_without_effect
from pymotor.config.source import kind
from pymotor.config.user import UserConfig

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], value: dict[str, Any], file: str, *, strict: bool) -> tuple[Model, list[Problem]]:
    """Check a JSON object against a model.

    Returns the model of what is right (defaults stand in for the rest) and all problems. Unknown keys are errors
    when `strict`, else warnings. Never raises for what `value` holds, as long as the model requires no key.
    """
    remaining = copy.deepcopy(value)
    problems: list[Problem] = []
    while True:
        try:
            built = model.model_validate(remaining)
            break
        except ValidationError as fault:
            details = fault.errors(include_url=False)
        told = {problem.path for problem in problems}
        for location, same_place in _by_place(model, remaining, details):
            problem = _problem(model, value, location, same_place, file, strict=strict)
            if problem.path not in told:
                problems.append(problem)
            _remove(remaining, location)
    problems.extend(
        Problem.warning(
            file,
            json_path(location),
            f"the key has no effect: {why}",
            value=_value_at(value, location),
            suggestion=f"write {instead} instead" if instead else "remove it",
        )
        for location, _, why, instead in keys_without_effect(built)
    )
    return built, problems


def _by_place(
    model: type[BaseModel], value: Any, details: list[ErrorDetails]
) -> Iterator[tuple[Location, list[ErrorDetails]]]:
    """The faults grouped by where they are in the file: a value that may be several things faults for each."""
    places: dict[Location, list[ErrorDetails]] = {}
    for detail in details:
        places.setdefault(_place(model, value, detail["loc"]), []).append(detail)
    yield from places.items()


def _place(model: type[BaseModel], value: Any, location: Location) -> tuple[str | int, ...]:
    """The part of a fault's location that is in the file; what follows names a branch of the model."""
    place: list[str | int] = []
    for step in location:
        if "anyOf" in schema_at(model, place):
            break
        inside = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if not inside:
            break
        value = value[step]
        place.append(step)
    return tuple(place)


def _problem(
    model: type[BaseModel],
    value: Any,
    location: Location,
    details: list[ErrorDetails],
    file: str,
    *,
    strict: bool,
) -> Problem:
    found = _value_at(value, location)
    path = json_path(location)
    if details[0]["type"] == "extra_forbidden":
        told = Problem.error if strict else Problem.warning
        suggestion, allowed = _for_unknown_key(model, location)
        return told(file, path, "PyMotor knows no such key here", value=found, allowed=allowed, suggestion=suggestion)
    if len(details[0]["loc"]) > len(location) and details[0]["loc"][-1] == "[key]":
        return _bad_key(file, path, details)
    allowed = describe(schema_at(model, location))
    return Problem.error(
        file,
        path,
        _message(details, found, allowed),
        value=found,
        allowed=allowed,
        suggestion=_for_wrong_value(found, schema_at(model, location), details),
    )


def _bad_key(file: str, path: str, details: list[ErrorDetails]) -> Problem:
    pattern = details[0].get("ctx", {}).get("pattern", "")
    if pattern == VARIABLE_NAME:
        words, allowed = (
            "not a name that an environment variable can have",
            "letters, digits and _, not beginning with a digit",
        )
    else:
        words = "not a key that can stand here"
        allowed = "an absolute path" if pattern == ABSOLUTE_PATH else f"what matches {pattern}"
    return Problem.error(file, path, words, allowed=allowed, suggestion="correct the key")


def _message(details: list[ErrorDetails], found: object, allowed: str) -> str:
    fault = details[0]["type"]
    if fault in ("greater_than", "greater_than_equal", "finite_number"):
        return "too small"
    if fault in ("less_than", "less_than_equal"):
        return "too large"
    if fault == "literal_error" and isinstance(found, str):
        return "not one of the values that are allowed"
    if fault == "string_pattern_mismatch":
        return "not written as it must be"
    if fault == "string_too_short":
        return "empty"
    if allowed:
        return f"expected {allowed.split(' (')[0]}, found {kind(found)}"
    return details[0]["msg"]


def _for_unknown_key(model: type[BaseModel], location: Location) -> tuple[str, str]:
    """A suggestion and what is allowed, for a key nobody knows."""
    key = str(location[-1])
    keys = known_keys(schema_at(model, location[:-1]))
    allowed = ", ".join(sorted(keys))
    elsewhere = places_of_keys(model).get(key, ())
    if len(elsewhere) == 1:
        return f"{key} belongs in {elsewhere[0]}", allowed
    close = nearest(key, keys)
    if close is not None:
        return f"did you mean {close}?", allowed
    if elsewhere:
        return f"{key} belongs in {' or '.join(elsewhere[:3])}", allowed
    for file, other in (("user_config.json", UserConfig), ("env.json", EnvConfig)):
        if other is not model and len(location) == 1 and key in known_keys(json_schema(other)):
            return f"{key} belongs in {file}", allowed
    if "engine_config" in keys:
        return "if it is an option of the engine, put it inside engine_config", allowed
    if option_name(key) in (*VLLM_OPTIONS, *SGLANG_OPTIONS):
        return "options of the engine belong in engine_config of an engine section", allowed
    return "remove it", allowed


def _for_wrong_value(found: object, schema: Any, details: list[ErrorDetails]) -> str:
    if isinstance(found, str) and "enum" in schema:
        close = nearest(found, [str(value) for value in schema["enum"]])
        return f"did you mean {close}?" if close is not None else ""
    if isinstance(found, str) and details[0]["type"] in ("int_type", "float_type", "bool_type"):
        plain = found.strip().lower()
        if _is_number(plain) or plain in ("true", "false"):
            return f"write {plain} without quotes"
    if found is None:
        return "remove the key to get the default"
    if isinstance(found, float) and found.is_integer() and details[0]["type"] == "int_type":
        return f"write {int(found)}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value_at(value: Any, location: Location) -> object:
    try:
        for step in location:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return ABSENT
    return value


def _remove(value: Any, location: Location) -> None:
    """Take out what stands at a place; of a list the whole list, since its other items would move."""
    if not location:
        value.clear()
        return
    if isinstance(location[-1], int):
        _remove(value, location[:-1])
        return
    holder = _value_at(value, location[:-1])
    if isinstance(holder, dict):
        holder.pop(location[-1], None)
