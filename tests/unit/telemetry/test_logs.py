"""One line for each record, in the order of a log that many processes write."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pymotor.telemetry.logs import configure_logging

_SCRIPT = """
import logging, sys
from pymotor.telemetry.logs import configure_logging
configure_logging(sys.argv[1], process="coordinator")
configure_logging(sys.argv[1], process="coordinator")
logger = logging.getLogger("pymotor.test")
logger.debug("quiet")
logger.info("model %s", "a\\nb\\x1b[31m\\r\\t\\x7f\\u2028")
try:
    raise KeyError("missing")
except KeyError:
    logger.exception("it failed")
"""


def logged(level: str) -> list[str]:
    """What a process with this level writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, level], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    return done.stderr.split("\n")[:-1]


def test_a_record_is_one_line_with_iso_time_zone_level_and_origin() -> None:
    lines = logged("info")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d INFO coordinator\[\d+\] pymotor\.test: model "
        + re.escape(r"a\nb\x1b[31m\r\t\x7f\u2028"),
        lines[0],
    ), lines[0]
    assert lines[1].endswith(
        "ERROR coordinator" + lines[1][lines[1].index("[") :].split(" ")[0] + " pymotor.test: it failed"
    )
    assert lines[2] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyError: 'missing'"
    assert len([line for line in lines if "it failed" in line]) == 1, "set up twice, written once"


@pytest.mark.parametrize(("level", "records"), [("DEBUG", 3), ("INFO", 2), ("ERROR", 1)])
def test_records_below_the_level_are_left_out(level: str, records: int) -> None:
    assert sum("pymotor.test: " in line for line in logged(level)) == records


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'LOUD' is not one of DEBUG, INFO, WARNING, ERROR"):
        configure_logging("LOUD", process="coordinator")


def test_the_steps_of_each_connection_are_no_part_of_debugging() -> None:
    script = """
import logging
from pymotor.telemetry.logs import configure_logging
configure_logging("DEBUG", process="coordinator")
logging.getLogger("httpcore.connection").debug("connect_tcp.started")
logging.getLogger("httpcore.connection").warning("worth a line")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith("httpcore.connection: worth a line")
