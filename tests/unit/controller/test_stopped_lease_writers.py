"""A Controller that is stopped while it writes the lease in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("lease_writer_stopped_at_each_moment.py")
SECONDS = 120
"""After which the second writer waits for the first; it takes some seconds."""


def test_who_is_stopped_while_it_writes_blocks_nobody_and_overwrites_nothing_when_it_goes_on(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), *sys.path])
    with (tmp_path / "told").open("w") as told:
        tried = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / "state")],
            env={**os.environ, "PYTHONPATH": path},
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert tried.wait(SECONDS) == 0
    finally:
        if tried.returncode is None:
            os.killpg(tried.pid, 9)
            tried.wait()
        lines = (tmp_path / "told").read_text().splitlines()
    *moments, left = [line.rpartition(": ") for line in lines]
    assert {moment[2] for moment in moments} == {"the first wrote nothing", "the first wrote epoch"}
    assert {"fsync", "replace", "listdir"} <= {moment[0] for moment in moments}
    assert left[2] == "lease.json", "no drafts are left"
