"""`pymotor api-key create|list|revoke`: the keys file of a Coordinator, which takes up changes within seconds."""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec

from pymotor.control_plane.arguments import at_least_one
from pymotor.coordinator.keys.api_key import Scope, new_key
from pymotor.coordinator.keys.key_hash import hash_of
from pymotor.coordinator.keys.keys_file import NAME, KeyRecord, KeysFileError, changing_keys, now, read_keys

DONE, FAILED = 0, 1
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_SPAN_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_EPILOG = """\
The file is `api_key_config.keys_file` of user_config.json. It has hashes only; a new key is shown once, on standard
output, and nobody can find it again. A Coordinator that runs takes up changes within seconds.

  pymotor api-key create --keys-file keys.json --name alice --expires 90d
  pymotor api-key create --keys-file keys.json --name prometheus --scope read
  pymotor api-key create --keys-file keys.json --name carol --scope inference,read
  pymotor api-key list --keys-file keys.json
  pymotor api-key revoke --keys-file keys.json alice

Exit status: 0 done, 1 failed, 2 wrong usage.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="add a key and show it, once")
    create.add_argument("--name", type=_name, required=True, help="what lists and metrics call it")
    create.add_argument(
        "--scope",
        type=_scopes,
        action="extend",
        metavar="SCOPE[,SCOPE]",
        help="inference (default), read (management and metrics, GET) or admin (everything there); several with commas,"
        " or by repeating the option",
    )
    create.add_argument(
        "--expires", type=_moment, metavar="WHEN", help="90d, 12h, 4w, or a time like 2027-01-31T00:00:00Z"
    )
    create.add_argument("--max-requests", type=at_least_one, metavar="N", help="in a window of rate_limit_config")
    create.add_argument("--max-tokens", type=at_least_one, metavar="N", help="likewise")
    listing = actions.add_parser("list", help="show all keys, without their secrets")
    revoke = actions.add_parser("revoke", help="a key is not good any more")
    revoke.add_argument("key", metavar="NAME_OR_ID")
    for action in (create, listing, revoke):
        action.add_argument("--keys-file", type=Path, required=True, metavar="FILE")
        action.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    actions = {"create": _create, "list": _list, "revoke": _revoke}
    try:
        actions[arguments.action](arguments)
    except KeysFileError as error:
        print(f"pymotor api-key: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _create(arguments: argparse.Namespace) -> None:
    if arguments.expires is not None and arguments.expires <= now():
        raise KeysFileError(f"--expires {arguments.expires.isoformat()} is over already")
    key_id, key = new_key()
    record = KeyRecord(
        id=key_id,
        name=arguments.name,
        hash=hash_of(key),
        scopes=tuple(dict.fromkeys(arguments.scope or [Scope.INFERENCE])),
        created_at=now(),
        expires_at=arguments.expires,
        max_requests=arguments.max_requests,
        max_tokens=arguments.max_tokens,
    )
    shown = False
    try:
        with changing_keys(arguments.keys_file, may_be_new=True) as keys:
            if any(other.name == record.name and other.revoked_at is None for other in keys):
                raise KeysFileError(
                    f"there is a key with the name {record.name}; revoke it first, or choose another name"
                )
            keys.append(record)
            # Before it is stored: a key that nobody has seen must not be good.
            _show(json.dumps({**_shown(record), "key": key}) if arguments.json else key)
            shown = True
    except KeysFileError as error:
        if shown:
            raise KeysFileError(f"{error}; the key that was shown is not stored and good for nothing") from error
        raise
    if not arguments.json:
        print(f"{record.name} ({record.id}); the key is not shown again", file=sys.stderr)


def _show(text: str) -> None:
    """Print it, so that it is out when this returns. Raises `OSError`, and `KeysFileError` where there is no standard
    output."""
    if sys.stdout is None:
        raise KeysFileError("standard output is closed, and the key is shown nowhere else; nothing is stored")
    print(text, flush=True)


def _list(arguments: argparse.Namespace) -> None:
    shown = [_shown(key) for key in read_keys(arguments.keys_file)]
    if arguments.json:
        print(json.dumps(shown))
        return
    rows = [("ID", "NAME", "STATE", "SCOPES", "CREATED", "EXPIRES")]
    rows += [
        (key["id"], key["name"], key["state"], ",".join(key["scopes"]), key["created_at"], key["expires_at"] or "never")
        for key in shown
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _revoke(arguments: argparse.Namespace) -> None:
    with changing_keys(arguments.keys_file) as keys:
        for place, key in enumerate(keys):
            if key.revoked_at is None and arguments.key in (key.id, key.name):
                revoked = keys[place] = msgspec.structs.replace(key, revoked_at=now())
                break
        else:
            raise KeysFileError(f"{arguments.keys_file} has no key {arguments.key} that is not revoked")
    print(json.dumps(_shown(revoked)) if arguments.json else f"{revoked.name} ({revoked.id}) is revoked")


def _shown(key: KeyRecord) -> dict[str, Any]:
    """What may be seen of a key."""
    fields: dict[str, Any] = msgspec.to_builtins(key)
    del fields["hash"]
    limits = {name: fields.get(name) for name in ("expires_at", "revoked_at", "max_requests", "max_tokens")}
    return {**fields, **limits, "state": key.state(now())}


def _scopes(text: str) -> list[Scope]:
    """One, or several with commas."""
    names = [name.strip() for name in text.split(",")]
    allowed = [scope.value for scope in Scope]
    for name in names:
        if name not in allowed:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no scope: {', '.join(allowed)}; several are written inference,read"
            )
    return [Scope(name) for name in names]


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("a name is 1 to 64 of A-Z a-z 0-9 . _ @ - and begins with a letter or digit")
    return text


def _moment(text: str) -> datetime:
    """A time, or how long from now."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now() + timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a length with its unit, h for hours, d for days or w for weeks (12h, 90d, 4w), nor a"
            " time like 2027-01-31T00:00:00Z"
        ) from error
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no offset from UTC; add Z")
    return moment.astimezone(timezone.utc)
