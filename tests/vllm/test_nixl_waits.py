"""The mended NIXL: a progress thread that has nothing to do leaves the processor to others."""

from __future__ import annotations

import os
import subprocess

import pytest

from engines_under_test import CHECKOUT, vllm_python_or_skip

pytestmark = pytest.mark.vllm

AGENT = """
import vllm_cpu_nixl_polling
vllm_cpu_nixl_polling.wait_between_polls()
from nixl._api import nixl_agent, nixl_agent_config, nixlBind
nixl_agent("idle", nixl_agent_config(num_threads=4))
config = nixlBind.nixlAgentConfig()
config.pthrDelay = 0
print("delay", config.pthrDelay)
"""


def test_an_agent_takes_the_delay() -> None:
    said = subprocess.run(
        [vllm_python_or_skip(), "-c", AGENT],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "tools")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "delay 1000" in said.stdout, said.stderr
