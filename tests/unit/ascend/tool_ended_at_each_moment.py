"""A script: runs a tool again and again, each time with SIGTERM at another moment, and prints a line for each:
the function at which the signal came, and `ended`, or what went wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from moments import interrupted
from pymotor.ascend.tools import ToolRunner, unwound_by_sigterm

MOMENTS = 260
"""More than it takes until the tool is waited for: there it goes round and round."""
SECONDS = 30
"""After which an attempt hangs; it takes some milliseconds."""


def attempt(moment: int) -> str:
    """What the line says."""
    at = "nothing"

    def end(function: str) -> None:
        nonlocal at
        at = function
        os.kill(os.getpid(), signal.SIGTERM)

    runner = ToolRunner({"npu-smi": "/bin/sleep"})
    try:
        with unwound_by_sigterm():
            interrupted(lambda: runner(["npu-smi", "600"]), moment, end)
    except SystemExit as left:
        outcome = "ended" if left.code == 128 + signal.SIGTERM else f"exits with {left.code}"
    else:
        outcome = "goes on"
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
        outcome = "leaves the tool behind"
    return f"{at}: {outcome}"


def main() -> None:
    """Until all moments were tried, or one hangs."""
    os.environ.clear()  # Each variable is some moments more at which nothing can go wrong.
    for moment in range(1, MOMENTS + 1):
        if (child := os.fork()) == 0:
            signal.alarm(SECONDS)
            print(attempt(moment), flush=True)
            os._exit(0)
        if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            print(f"moment {moment}: hangs ({status})", flush=True)
            return


if __name__ == "__main__":
    main()
