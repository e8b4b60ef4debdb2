"""`pymotor ec-store`: what is in a store of embeddings, and the removal of what nobody uses."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymotor.ec_store.collection import WRITING_SECONDS, Collected, Limits, collect
from pymotor.ec_store.reading import DAY, Reads
from pymotor.ec_store.store import Contents, NotAStoreError, Store

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHOWN = 20
_SEEN = {
    Reads.EACH: "seen",
    Reads.FIRST: "the first after each look of gc is seen (relatime)",
    Reads.NONE: "not seen on this file system (noatime, or not local)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="show items, bytes, ages and corrupt items")
    gc = actions.add_parser("gc", help="remove what was not used for long, and corrupt items; safe beside engines")
    for action in (status, gc):
        action.add_argument("path", metavar="PATH", type=Path, help="the connector's shared_storage_path")
        action.add_argument("--json", action="store_true", help="print JSON")
    gc.add_argument("--older-than", metavar="SECONDS", type=_seconds, help="remove what was not used for so long")
    gc.add_argument(
        "--max-bytes", metavar="N[K|M|G]", type=_size, help="remove the least recently used until no more is left"
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed; changes nothing")
    gc.add_argument(
        "--infer-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=3600.0,
        help="the gateway's infer_timeout: what was read or written within that time is never removed "
        "(default: %(default)g)",
    )
    gc.add_argument(
        "--engines-stopped",
        action="store_true",
        help="no engine uses the store now: --infer-timeout does not count, empty directories go too",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; 1 when something corrupt was found (status), or could not be removed or kept small (gc); 2 when
    PATH is not a store."""
    try:
        with Store(arguments.path) as store:
            return _status(store, arguments.json) if arguments.action == "status" else _gc(store, arguments)
    except NotAStoreError as error:
        print(f"pymotor ec-store: {error}", file=sys.stderr)
        return 2


def _status(store: Store, as_json: bool) -> int:
    contents = store.contents()
    now = time.time()
    corrupt = [item for item in contents.corrupt if now - item.written > WRITING_SECONDS]
    if as_json:
        print(json.dumps(_described(store, contents), indent=2))
    else:
        print("\n".join(_status_lines(store, contents, now)))
    return 1 if corrupt else 0


def _described(store: Store, contents: Contents) -> dict[str, Any]:
    return {
        "path": str(store.path),
        "items": len(contents.items),
        "bytes": contents.size,
        "written": _bounds([item.written for item in contents.items]),
        "read": _bounds([item.read for item in contents.items]),
        "reads": store.reads.value,
        "corrupt": [
            {"identifier": item.identifier, "bytes": item.size, "written": item.written, "problem": item.problem}
            for item in contents.corrupt
        ],
        "leftovers": len(contents.leftovers),
        "empty_directories": len(contents.empty),
        "names_not_plain": [_printable(name) for name in contents.not_plain],
        "foreign": contents.foreign,
    }


def _bounds(times: Sequence[float]) -> dict[str, float | None]:
    """Seconds since 1970."""
    return {"oldest": min(times, default=None), "newest": max(times, default=None)}


def _status_lines(store: Store, contents: Contents, now: float) -> list[str]:
    lines = [f"{store.path}: {_count(len(contents.items), 'item')}, {_bytes(contents.size)}"]
    if contents.items:
        written = [item.written for item in contents.items]
        read = [item.read for item in contents.items]
        lines.append(f"  written    {_ago(now - min(written))} (oldest) to {_ago(now - max(written))}")
        lines.append(f"  last read  {_ago(now - min(read))} (oldest) to {_ago(now - max(read))}, as recorded")
    lines.append(f"  reads      {_SEEN[store.reads]}")
    for count, words in (
        (len(contents.leftovers), "temporary files of writers"),
        (len(contents.empty), "empty directories, of items looked for or removed"),
        (contents.foreign, "other entries, never touched"),
    ):
        if count:
            lines.append(f"  {words}: {count}")
    lines += _listed("corrupt", [f"{item.identifier}: {item.problem}" for item in contents.corrupt])
    lines += _listed("name not plain, never touched", [_printable(name) for name in contents.not_plain])
    return lines


def _gc(store: Store, arguments: argparse.Namespace) -> int:
    limits = Limits(
        older_than=arguments.older_than,
        max_bytes=arguments.max_bytes,
        window=arguments.infer_timeout,
        engines_stopped=arguments.engines_stopped,
    )
    done = collect(store, limits, dry_run=arguments.dry_run)
    if arguments.json:
        report = {"path": str(store.path), "dry_run": arguments.dry_run, **dataclasses.asdict(done)}
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_gc_lines(store, done, limits, arguments.dry_run)))
    return 1 if done.failures or done.over_limit else 0


def _gc_lines(store: Store, done: Collected, limits: Limits, dry_run: bool) -> list[str]:
    verb = "would remove" if dry_run else "removed"
    lines = [
        f"{store.path}: {verb} {_count(done.items, 'item')} ({done.corrupt} corrupt), "
        f"{_count(done.leftovers, 'temporary file')}, {_bytes(done.bytes)}; "
        f"left: {_count(done.items_left, 'item')}, {_bytes(done.bytes_left)}"
    ]
    if done.directories:
        lines.append(f"  {verb} {_count(done.directories, 'empty directory', 'empty directories')}")
    wanted = limits.older_than is not None or limits.max_bytes is not None
    if done.over_limit:
        lines.append(f"  {_bytes(done.over_limit)} above --max-bytes stay: requests may still use these items")
    if done.in_use:
        lines.append(f"  {_count(done.in_use, 'item')} older than --older-than stay: requests may still use them")
    if wanted and not limits.engines_stopped and (done.over_limit or done.in_use):
        lines.append(f"  {_advice(done.reads, limits)}")
    return lines + [f"  {failure}" for failure in done.failures]


def _advice(reads: Reads, limits: Limits) -> str:
    if reads is Reads.NONE:
        return (
            "reads are not seen on this file system, so nothing is known to be unused: use a local one mounted with "
            "relatime, or stop the engines and give --engines-stopped"
        )
    if reads is Reads.FIRST:
        return (
            "reads of the last day may have gone unrecorded until now (relatime); from now on they are seen: "
            f"run it again in {limits.window:g} s"
        )
    return f"run it again later: only what was not used for {limits.window:g} s goes"


def _listed(what: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"    and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {what}: {len(lines)}", *(f"    {line}" for line in lines[:_SHOWN]), *more]


def _printable(name: str) -> str:
    return name.encode("unicode_escape", "backslashreplace").decode()


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _bytes(size: int) -> str:
    for unit in ("T", "G", "M", "K"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f} {unit}iB"
    return f"{size} bytes"


def _ago(seconds: float) -> str:
    for unit, length in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 500M, 20G or a number of bytes")
    return int(found[1]) * _UNITS[found[2].upper()]
