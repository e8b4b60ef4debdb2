"""What all sections of the configuration have in common, and the types of their values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

NO_EFFECT = "x-no-effect"
"""Marks a key of the JSON schema that is accepted and does nothing: why, in words."""
INSTEAD = "x-instead"
"""Beside `NO_EFFECT`: the key to write in its place."""


class Section(BaseModel):
    """An object of the configuration: every key known, types as written (no `"2"` for 2), immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class OpenSection(Section):
    """An object that PyMotor hands on to another program: keys it does not know pass through."""

    model_config = ConfigDict(extra="allow")


Port = Annotated[int, Field(ge=1, le=65535)]
PortOrOff = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON keeps exact (RFC 8259, section 6)."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
AtLeastOne = Annotated[int, Field(ge=1, le=LARGEST)]
Host = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.:_-]*$|^::")]
HEADER_NAME = r"^[0-9A-Za-z!#$%&'*+.^_`|~-]+$"
"""A token of RFC 9110, section 5.6.2: no other name can come."""
HeaderName = Annotated[str, Field(pattern=HEADER_NAME)]
Ratio = Annotated[float, Field(ge=0, le=1)]


def no_effect(why: str, *, instead: str | None = None, alias: str | None = None) -> Any:
    """A field for a key that older PyMotor accepted or documented without effect: any value, and a warning."""
    marks: dict[str, Any] = {"deprecated": True, NO_EFFECT: why}
    if instead is not None:
        marks[INSTEAD] = instead
    return Field(default=None, alias=alias, description=f"No effect: {why}.", json_schema_extra=marks)


def keys_without_effect(
    section: BaseModel, location: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, str, str | None]]:
    """The keys of the user that do nothing: where, value, why, and the key to write instead if there is one."""
    for name, field in type(section).model_fields.items():
        if name not in section.model_fields_set:
            continue
        key = field.alias or name
        value = getattr(section, name)
        marks = _marks(field)
        if NO_EFFECT in marks:
            yield (*location, key), value, marks[NO_EFFECT], marks.get(INSTEAD)
        elif isinstance(value, BaseModel):
            yield from keys_without_effect(value, (*location, key))


def _marks(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
