"""The driver: what waits is woken by whatever changes, and nobody waits for a core that steps no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import CoreOptions, KVStore
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.faults import Faults
from pymotor.engines.sim.metrics import EngineMetrics
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import EngineDeadError, MediaItem, Output, Request, Sampling
from pymotor.engines.sim.times import Profile

ENDS = 60.0
"""Seconds after which something that should end has not."""
PRODUCER = CoreOptions(num_blocks=4, side_channel=("127.0.0.1", 1), kv_lease_seconds=1000.0, prefix_caching=False)


def engine_driver(options: CoreOptions, speed: float, kv_store: KVStore | None = None) -> EngineDriver:
    core = EngineCore(options, Profile(), kv_store=kv_store)
    return EngineDriver(core, speed=speed, layout="", metrics=EngineMetrics("m"), faults=Faults())


def request(name: str, length: int, media: tuple[MediaItem, ...] = (), leased: bool = False) -> Request:
    params = {"do_remote_decode": True} if leased else None
    return Request(name, np.arange(length, dtype=np.uint64), Sampling(max_tokens=1), media, params)


def submit(driver: EngineDriver, wanted: Request) -> asyncio.Future[Output]:
    """The request's last output, when there is one."""
    ended: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
    driver.submit(wanted, lambda output: ended.set_result(output) if output.finish_reason else None)
    return ended


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - the loop under test has no event for it
        await asyncio.sleep(0)


async def test_blocks_freed_while_a_step_without_progress_takes_its_time_wake_who_waits_for_them() -> None:
    driver = engine_driver(PRODUCER, speed=10.0)
    try:
        await asyncio.wait_for(submit(driver, request("leased", 40, leased=True)), ENDS)
        image = MediaItem("image", "image", 0, 4, {}, b"digest")
        ended = submit(driver, request("waiting", 40, (image,)))
        await asyncio.wait_for(until(lambda: driver.core.encoder_cache.used_tokens), ENDS)
        assert not driver.core.running  # the image was encoded, but there is no room for KV
        driver.transfers.end_lease("leased")
        assert (await asyncio.wait_for(ended, ENDS)).finish_reason == "length"
        assert driver.core.idle
    finally:
        await driver.stop()


class LosingStore:
    """A store of KV whose directory is not as it should be."""

    def load(self, tokens: Words, identifiers: tuple[str, ...]) -> Words | None:
        raise KeyError("kv_cache")

    def save(self, tokens: Words, identifiers: tuple[str, ...], states: Words) -> None:
        raise AssertionError("nothing is computed")


async def test_any_failure_of_a_step_ends_all_requests() -> None:
    driver = engine_driver(CoreOptions(), speed=0.0, kv_store=LosingStore())
    ended = [submit(driver, request(name, 40)) for name in ("first", "second")]
    assert [output.finish_reason for output in await asyncio.wait_for(asyncio.gather(*ended), ENDS)] == ["dead"] * 2
    with pytest.raises(EngineDeadError):
        submit(driver, request("later", 40))
