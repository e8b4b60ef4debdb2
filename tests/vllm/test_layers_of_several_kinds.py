"""What is predicted of a model with layers of several kinds is what vLLM's own KV cache then has."""

from __future__ import annotations

import base64
import json
import subprocess
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines_under_test import vllm_python_or_skip
from pymotor.fleet.prefix_queries import PrefixQuery
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.events import decode_batch

pytestmark = pytest.mark.vllm

FULL, SLIDING = "full_attention", "sliding_window"


CACHES: dict[str, tuple[list[tuple[str, int, int]], int]] = {
    "one sliding window": ([(FULL, 16, 0), (SLIDING, 16, 64)], 250),
    "two, one of them told first": ([(SLIDING, 16, 100), (FULL, 16, 0), (SLIDING, 16, 100)], 400),
    "blocks of two sizes": ([(FULL, 16, 0), (SLIDING, 32, 70)], 250),
    "two windows": ([(FULL, 16, 0), (SLIDING, 16, 40), (SLIDING, 16, 300)], 400),
    "full attention twice": ([(FULL, 16, 0), (FULL, 16, 0), (SLIDING, 16, 64)], 400),
}
"""Groups (kind, tokens of a block, window) and blocks."""


@pytest.fixture(scope="module")
def played() -> dict[str, list[dict[str, Any]]]:
    script = Path(__file__).with_name("kv_cache_of_vllm.py")
    asked = [{"groups": groups, "blocks": blocks, "seed": 1} for groups, blocks in CACHES.values()]
    done = subprocess.run(
        [vllm_python_or_skip(), str(script)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CACHES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("cache", CACHES)
def test_predictions_are_what_the_cache_has(cache: str, played: dict[str, list[dict[str, Any]]]) -> None:
    core = ConductorCore(lambda: 0.0)
    (view,) = core.follow("u-0", ["m"])
    limits = core.index.limits
    too_many_without = too_few = 0
    for number, step in enumerate(played[cache]):
        view.apply(decode_batch(base64.b64decode(step["events"])))
        # Engines compute a prompt's last token whatever they hold.
        query = PrefixQuery(number, "m", memoryview(array("I", step["tokens"][:-1])).cast("B"))
        core.index.limits = {}
        of_full_attention = tokens_on_device(core, query)
        core.index.limits = limits
        predicted = tokens_on_device(core, query)
        assert predicted <= step["cached"], number
        too_many_without += of_full_attention > step["cached"]
        # Blocks that the engine has twice count as gone when it tells that one of the two went.
        too_few += predicted < step["cached"] <= of_full_attention
    assert too_many_without, "the other groups made a difference"
    assert too_few < 0.02 * len(played[cache])


def tokens_on_device(core: ConductorCore, query: PrefixQuery) -> int:
    return int(np.frombuffer(core.match("asker", query).on_device, "<u4").sum())
