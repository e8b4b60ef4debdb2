"""Reading a JSON file with every mistake named: where it is, what was found."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pymotor.config.problems import Location, Problem, json_path

_DEEPEST = 64
"""Levels of nesting; more is a mistake, and would exhaust the stack of whoever walks the value."""


class Source(NamedTuple):
    """What a file holds; `value` is None when it is no JSON object."""

    value: dict[str, Any] | None
    problems: tuple[Problem, ...]
    revision: str = ""
    """See `revision_of`; empty where the file could not be read."""


class _Object(dict[str, Any]):
    """A JSON object that remembers keys given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def revision_of(content: bytes) -> str:
    """The SHA-256 of a file's bytes in hexadecimal, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def read_object(path: Path) -> Source:
    """Read a file that holds one JSON object; never raises for what it holds or for its absence."""
    file = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _refused(file, "the file does not exist", "check the path, or the directory given with --config_dir")
    except IsADirectoryError:
        return _refused(file, "this is a directory, not a file", f"give a file, as {path / 'user_config.json'}")
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
        return _refused(file, f"the file cannot be read: {reason}", "check the path and who may read the file")
    return _decoded(data, file)._replace(revision=revision_of(data))


def _decoded(data: bytes, file: str) -> Source:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        before = data[: fault.start]
        line, column = before.count(b"\n") + 1, fault.start - before.rfind(b"\n")
        return _refused(
            file,
            f"line {line}, byte {column}: the file is not UTF-8 (byte 0x{data[fault.start]:02x})",
            "save the file as UTF-8",
        )
    return parse_object(text, file)


def parse_object(text: str, file: str) -> Source:
    """Parse one JSON object; `file` is how problems name it. Never raises."""
    if not text.strip():
        return _refused(file, "the file is empty", "write a JSON object, or start from one of the examples")
    try:
        value = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as fault:
        return _refused(file, *_syntax(fault))
    except RecursionError:
        return _refused(file, f"nested deeper than {_DEEPEST} levels", "")
    except ValueError as fault:
        return _refused(file, f"a number has too many digits: {fault}", "write a shorter number")
    if not isinstance(value, dict):
        return _refused(file, f"the file holds {kind(value)}, not a JSON object", "write { … } around the sections")
    problems: list[Problem] = []
    cleaned = _clean(value, (), file, problems)
    return Source(cleaned, tuple(problems))


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    for types, words in ((dict, "an object"), (list, "a list"), (str, "a string"), (int, "an integer")):
        if isinstance(value, types):
            return words
    return "a number"


def _refused(file: str, message: str, suggestion: str) -> Source:
    return Source(None, (Problem.error(file, "$", message, suggestion=suggestion),))


def _clean(value: Any, location: Location, file: str, problems: list[Problem]) -> Any:
    """The value in plain dicts and lists, without what no JSON file may hold; each such thing becomes a problem."""
    where = tuple(location)
    if len(where) > _DEEPEST:
        problems.append(Problem.error(file, json_path(where), f"nested deeper than {_DEEPEST} levels"))
        return None
    if isinstance(value, _Object):
        problems.extend(
            Problem.error(
                file,
                json_path((*where, key)),
                "the key is given more than once in this object",
                suggestion="keep one of them",
            )
            for key in value.repeated
        )
        return {
            _valid_unicode(key, (*where, key), file, problems): _clean(item, (*where, key), file, problems)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_clean(item, (*where, index), file, problems) for index, item in enumerate(value)]
    if isinstance(value, str):
        return _valid_unicode(value, where, file, problems)
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(
            Problem.error(
                file, json_path(where), "not a number that JSON knows", value=value, allowed="a finite number"
            )
        )
        return 0.0
    return value


def _valid_unicode(text: str, location: Location, file: str, problems: list[Problem]) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as fault:
        problems.append(
            Problem.error(
                file,
                json_path(location),
                f"\\u{ord(text[fault.start]):04x} is half of a character",
                suggestion="write both halves of the surrogate pair, or the character itself",
            )
        )
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _syntax(fault: json.JSONDecodeError) -> tuple[str, str]:
    """What the parser stumbled over, and what usually is the reason."""
    text, position = fault.doc, fault.pos
    place = f"line {fault.lineno}, column {fault.colno}"
    before = text[:position].rstrip()
    found = _found(text, position)
    rest = text[position:].lstrip()
    if fault.msg.startswith("Unterminated string"):
        return f"{place}: a string is begun here and not ended", 'close it with "'
    if fault.msg.startswith("Invalid control character"):
        return (
            f"{place}: {found} inside a string",
            "close the string before the end of the line, or write \\n or \\t",
        )
    if fault.msg.startswith("Invalid \\"):
        return f"{place}: a backslash that begins no escape", "write \\\\ for a backslash"
    if fault.msg == "Extra data":
        return f"{place}: {found} after the end of the object", "write one object; check for a } too many"
    advice = {
        "Expecting property name enclosed in double quotes": "a key in double quotes",
        "Illegal trailing comma before end of object": "a key in double quotes",
        "Illegal trailing comma before end of array": "a value",
        "Expecting ':' delimiter": "a colon between key and value",
        "Expecting ',' delimiter": "a comma, or the end of the object or list",
        "Expecting value": "a value",
    }
    wanted = advice.get(fault.msg, fault.msg)
    if rest.startswith(("//", "/*", "#")):
        hint = "JSON has no comments: remove it"
    elif (rest[:1] in ("}", "]") and before.endswith(",")) or fault.msg.startswith("Illegal trailing comma"):
        hint = f"remove the comma before {found}" if rest[:1] in ("}", "]") else "remove the last comma"
    elif rest.startswith("'"):
        hint = 'use double quotes "…"'
    elif rest.startswith(("True", "False", "None")):
        hint = "JSON writes true, false and null"
    elif not rest:
        hint = "close what is open with } or ]"
    elif fault.msg.startswith("Expecting ','"):
        hint = "a comma is probably missing before it"
    else:
        hint = ""
    return f"{place}: {wanted} was expected, {found} was found", hint


def _found(text: str, position: int) -> str:
    rest = text[position:].lstrip(" \t\r\n")
    if not rest:
        return "the end of the file"
    if text[position] in "\n\r\t" and rest:
        skipped = {"\n": "the end of the line", "\r": "the end of the line", "\t": "a tabulator"}
        if text[:position].count('"') % 2:
            return skipped[text[position]]
    word = "".join(_word(rest)) or rest[0]
    return json.dumps(word, ensure_ascii=False)


def _word(text: str) -> list[str]:
    """The letters at the beginning, a dozen at most."""
    letters: list[str] = []
    for character in text[:12]:
        if not character.isalnum():
            break
        letters.append(character)
    return letters
