"""`log_config.ini`: whose logs are collected, and where to."""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from pathlib import Path

_SECTION = "LogSetting"
_NAMES = ("name_space", "name_sapce")
"""The second one is how the user's manual spells it."""
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class LogSettingsError(ValueError):
    """The file cannot be used; the message names the key and what may stand there."""


@dataclass(frozen=True)
class LogSettings:
    """What the file says."""

    namespace: str
    out_path: Path
    """Directory in which each start makes one of its own."""
    max_log_size: int = 10_000_000
    """Bytes of a file, after which it is renamed and a new one begun."""
    backup_count: int = 10
    """How many renamed ones are kept."""


def read_log_settings(path: Path, namespace: str = "") -> LogSettings:
    """The settings of a file; `namespace` wins over the file's. A relative `out_path` begins at the file's directory.

    Raises `LogSettingsError`.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        section = dict(parser[_SECTION])
    except OSError as error:
        raise LogSettingsError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise LogSettingsError(f"{path} has no section [{_SECTION}]") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise LogSettingsError(f"{path} is no ini file: {error}") from error
    stated = {name: section.get(name, "").strip() for name in _NAMES}
    different = set(stated.values()) - {""}
    if not namespace and len(different) > 1:
        raise LogSettingsError(
            f"{path}: name_space and name_sapce name different namespaces: {', '.join(sorted(different))}; keep one"
        )
    chosen = namespace or next(iter(different), "")
    if not _DNS_LABEL.fullmatch(chosen):
        raise LogSettingsError(
            f"{path}: name_space is {chosen!r}; write the namespace there, which is job_id of user_config.json"
        )
    return LogSettings(
        namespace=chosen,
        out_path=(path.parent / (section.get("out_path", "").strip() or "./log/")).resolve(),
        max_log_size=_number(path, section, "max_log_size", LogSettings.max_log_size, least=1),
        backup_count=_number(path, section, "backup_count", LogSettings.backup_count, least=0),
    )


def _number(path: Path, section: dict[str, str], key: str, default: int, *, least: int) -> int:
    text = section.get(key, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise LogSettingsError(f"{path}: {key} is {text!r}; write a whole number from {least} on")
    return int(text)
