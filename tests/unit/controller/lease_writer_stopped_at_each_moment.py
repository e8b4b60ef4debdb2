"""A script: one process writes the lease in a directory and is stopped (SIGSTOP) at some moment of that, another one
writes meanwhile, and then the first goes on; again and again, each time at another moment. It prints a line for each:
where it was stopped, and whether the first has written."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from moments import interrupted
from pymotor.controller.file_lease import FileLease
from pymotor.controller.lease import LeaseRecord

EVERY = 1 << 20


def swap(lease: FileLease, holder: str, moment: int) -> str:
    """Take the place of the record that is there, stopped at that moment; which version was written, or that none
    was."""
    record, version = lease._read()
    epoch = (record or LeaseRecord()).epoch + 1
    wanted = LeaseRecord(holder=holder, epoch=epoch, renewals=f"{holder} {moment}")

    def stop(function: str) -> None:
        print(function, end=": ", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

    written = interrupted(lambda: lease._swap(wanted, version), moment, stop)
    return f"epoch {epoch}" if written is not None else "nothing"


def attempt(lease: FileLease, moment: int) -> bool:
    """Whether there is such a moment."""
    reader, writer = os.pipe()
    if (first := os.fork()) == 0:
        os.write(writer, swap(lease, "first", moment).encode())
        os._exit(0)
    try:
        if not os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1]):
            return False
        second = swap(lease, "second", EVERY)
        seen = lease._read()
        os.kill(first, signal.SIGCONT)
        os.waitpid(first, 0)
        wrote = os.read(reader, 100).decode()
        record = seen[0]
        assert record is not None
        good = (
            (record.holder, second) == ("second", f"epoch {record.epoch}")
            and lease._read() == seen
            and wrote in ("nothing", f"epoch {record.epoch - 1}")
        )
        print(f"the first wrote {wrote.split()[0]}" if good else f"both: {wrote}, {second}", flush=True)
    finally:
        os.close(reader)
        os.close(writer)
    return True


def main() -> None:
    """Until it is over before it could be stopped."""
    lease = FileLease(Path(sys.argv[1]))
    swap(lease, "before", EVERY)
    moment = 1
    while attempt(lease, moment):
        moment += 1
    print(*sorted(os.listdir(sys.argv[1])))


if __name__ == "__main__":
    main()
