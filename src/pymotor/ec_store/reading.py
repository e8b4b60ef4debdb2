"""When an item was last read, as far as the file system tells.

The time of access is all there is: engines keep no record. What it is worth depends on the mount:

- `strictatime`: each read is recorded.
- `relatime`, the usual one: a read is recorded when the recorded one is not later than the inode's last change (its
  ctime or mtime), or a day old. So the first read after a change is recorded and the following ones are not. A
  collector makes use of that: it sets the time of access of what has been read to now, which no read so far can be
  later than, and by doing so changes the inode; the next read is recorded again. Until a collector has done it, what
  was read once may have been read until a moment ago, or until a day after.
- `noatime`, network file systems, everything not known: reads are not seen, so nobody can say that an item is unused.

An engine's read is seen whether it reads the file or maps it; both count as access.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

DAY = 86400.0
_LOCAL = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "tmpfs", "ramfs", "overlay", "apfs", "hfs")
)
_MARGIN = 1.0
"""Seconds by which the time of access is set back when it is made to move again: the kernel's clock for inodes is
coarser than ours, and the time of access must not be later than the change."""


class Reads(str, Enum):
    """What is seen of reads."""

    EACH = "each"
    FIRST = "first"
    """The first one after each change of the inode, and one a day."""
    NONE = "none"


def reads_seen(path: Path, descriptor: int) -> Reads:
    """What the file system under `path`, open as the directory `descriptor`, tells about reads."""
    flags = os.fstatvfs(descriptor).f_flag
    if flags & getattr(os, "ST_NOATIME", 1024) or _file_system(path) not in _LOCAL:
        return Reads.NONE
    return Reads.FIRST if flags & getattr(os, "ST_RELATIME", 4096) else Reads.EACH


def reads_move(descriptor: int) -> bool:
    """Try it: whether reading a file in the directory `descriptor` changes its time of access. What is below an
    overlay may be mounted otherwise than the overlay says."""
    name = f".pymotor-{secrets.token_hex(8)}"
    try:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=descriptor)
    except OSError:
        return False
    try:
        os.write(file, b"x")
        past = time.time() - 2 * DAY
        os.utime(file, (past, past))
        os.pread(file, 1, 0)
        return os.fstat(file).st_atime > past + DAY
    except OSError:
        return False
    finally:
        os.close(file)
        os.unlink(name, dir_fd=descriptor)


def last_use(read: float, written: float, changed: float, reads: Reads, now: float) -> float:
    """The latest time at which an item may have been read or written, in seconds since 1970: of its file's times of
    access (`read`), modification (`written`) and change (`changed`)."""
    if reads is Reads.NONE:
        return now
    if reads is Reads.FIRST and is_unsure(read, changed):
        return max(written, min(now, read + DAY))
    return max(read, written)


def is_unsure(read: float, changed: float) -> bool:
    """Whether, where only first reads are seen, there may have been later reads than the recorded one."""
    return read > changed


def watch_again(descriptor: int, written: int, now: float) -> None:
    """Set the time of access to now, so that the next read is recorded. `written`: the time of modification, which
    stays, in nanoseconds. Raises `OSError` where the file is another user's."""
    os.utime(descriptor, ns=(int((now - _MARGIN) * 1e9), written))


def _file_system(path: Path) -> str:
    """The type of the file system at the path; empty when it is not known."""
    best, found = -1, ""
    real = os.path.realpath(path)
    for mount, kind in _mounts():
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= best:
            best, found = len(mount), kind
    return found


def _mounts() -> Iterator[tuple[str, str]]:
    """Mount point and type of each mount, in order; the later of two at one place is on top."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) > 4 and kinds:
            escaped = fields[4].encode("utf-8", "surrogateescape").decode("latin-1")
            mount = escaped
            for code in ("\\040", "\\011", "\\012", "\\134"):
                mount = mount.replace(code, chr(int(code[1:], 8)))
            yield mount.encode("latin-1").decode("utf-8", "surrogateescape"), kinds[0]
