"""A problem of a configuration file, told so that it can be mended: where, what, what may be there."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Severity = Literal["error", "warning"]
Location = Sequence[str | int]


class _Absent:
    """The type of `ABSENT`."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""The value of a key that is not in the file."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SECRET = re.compile(
    r"((passw(or)?d|secret|token|credentials?|valid_keys|(api|access|private|encryption)[-_]?keys?)"
    r"|_env\.\w*(key|passw|secret|token)\w*)"
    r"(\[\d+\])*(\"\])?$",
    re.IGNORECASE,
)
"""How the path of a secret ends."""
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong (`error`) or probably not meant (`warning`) in a configuration file.

    `str(problem)` is for people, `as_json()` for programs; neither shows the value of a key that looks like a
    secret, nor the inside of objects and lists.
    """

    severity: Severity
    file: str
    path: str
    """JSON path, `$.motor_deploy_config.p_instances_num`; `$` for the whole file."""
    message: str
    value: object = ABSENT
    """The value as it is in the file, or `ABSENT`."""
    allowed: str = ""
    """What may stand there, in words."""
    suggestion: str = ""
    """What to do, in words."""

    @classmethod
    def error(
        cls, file: str, path: str, message: str, *, value: object = ABSENT, allowed: str = "", suggestion: str = ""
    ) -> Problem:
        """A problem that must be mended before anything starts."""
        return cls(
            severity="error",
            file=file,
            path=path,
            message=message,
            value=value,
            allowed=allowed,
            suggestion=suggestion,
        )

    @classmethod
    def warning(
        cls, file: str, path: str, message: str, *, value: object = ABSENT, allowed: str = "", suggestion: str = ""
    ) -> Problem:
        """A problem with which PyMotor can go on."""
        return cls(
            severity="warning",
            file=file,
            path=path,
            message=message,
            value=value,
            allowed=allowed,
            suggestion=suggestion,
        )

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.file}: {self.path}: {self.message}"]
        if self.value is not ABSENT:
            lines.append(f"    value: {show_value(self.path, self.value)}")
        if self.allowed:
            lines.append(f"    allowed: {self.allowed}")
        if self.suggestion:
            lines.append(f"    suggestion: {self.suggestion}")
        return printable("\n".join(lines))

    def as_json(self) -> dict[str, str | None]:
        """The problem as a JSON object; `value` is text as in `str(problem)`, null when there is none."""
        return {
            "severity": self.severity,
            "file": printable(self.file),
            "path": printable(self.path),
            "message": printable(self.message),
            "value": None if self.value is ABSENT else show_value(self.path, self.value),
            "allowed": self.allowed,
            "suggestion": printable(self.suggestion),
        }


def json_path(location: Location) -> str:
    """`("motor_deploy_config", "a b", 0)` as `$.motor_deploy_config["a b"][0]`."""
    parts = ["$"]
    for step in location:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN_KEY.fullmatch(step):
            parts.append(f".{step}")
        else:
            parts.append(f"[{json.dumps(step, ensure_ascii=False)}]")
    return "".join(parts)


def show_value(path: str, value: Any) -> str:
    """A value as short JSON text; hidden where the path names a secret, outlined where it is an object or list."""
    if isinstance(value, dict):
        return "an empty object" if not value else f"an object with {_count(len(value), 'key')}"
    if isinstance(value, list | tuple):
        return "an empty list" if not value else f"a list of {_count(len(value), 'item')}"
    if value not in (None, "") and _SECRET.search(path):
        return "(hidden, it may be a secret)"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
    return printable(text)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` is probably a slip of, or None when nothing is close.

    Letter case and the difference between `-` and `_` do not count.
    """
    plain = {_normal(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(_normal(word), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def printable(text: str) -> str:
    """The text with characters that no terminal or UTF-8 writer takes written as escapes."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        character if character.isprintable() or character == "\n" else f"\\u{ord(character):04x}" for character in text
    )


def _normal(word: str) -> str:
    return word.lower().replace("-", "_")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
