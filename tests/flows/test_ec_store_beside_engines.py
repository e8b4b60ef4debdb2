"""The store of embeddings beside running engines: collected while they read it, and never written by two at once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from answers import CHAT, Answer, Asked, ask_all, assert_equal_answers
from fleet_under_test import PLAIN, Engines, Gateway, Role
from images import vision_chat

from pymotor.ec_store import Limits, Store, collect
from pymotor.ec_store.layout import FILE
from pymotor.ec_store.reading import Reads
from pymotor.engines.sim.stores import DirectoryEmbeddingStore
from pymotor.local.events import Event, Note
from pymotor.local.store_care import StoreCare

MakeGateway = Callable[..., Gateway]
QUICK: dict[str, object] = {"exception_config": {"retry_delay": 0.02}, "encode_config": {"reuse_seconds": 0}}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two encoders that write into the store, and one engine that reads it."""
    with Engines(tmp_path_factory.mktemp("ec-care"), {Role.ENCODE: 2, Role.UNION: 1}) as running:
        yield running


def ask(url: str, requests: list[Asked], at_once: int) -> list[Answer]:
    return asyncio.run(ask_all(url, requests, at_once))


def test_what_engines_read_while_it_is_collected(engines: Engines, make_gateway: MakeGateway) -> None:
    """Nothing that is used goes, everything that is not goes, and no answer is another one."""
    engines.restore()
    gateway = make_gateway(engines, config=QUICK)
    store = engines["encode-0"].store
    with Store(store) as opened:
        opened.try_reads()
        if opened.reads is Reads.NONE:
            pytest.skip("this file system does not record reads")
    unused = [_unused(store, f"unused-{number}") for number in range(20)]
    requests = [Asked(CHAT, vision_chat(7000 + number % 3, text=f"Question {number}?")) for number in range(12)]
    over = threading.Event()
    collected: list[int] = []

    def keep_collecting() -> None:
        while not over.is_set():
            with Store(store) as opened:
                collected.append(collect(opened, Limits(max_bytes=0, window=3600.0)).items)
            time.sleep(0.01)

    collector = threading.Thread(target=keep_collecting)
    collector.start()
    try:
        rounds = [ask(gateway.url, requests, 4) for _ in range(3)]
    finally:
        over.set()
        collector.join()
    expected = ask(engines[PLAIN].url, requests, 4)
    for answers in rounds:
        assert_equal_answers(requests, answers, expected, "while the store is collected")
    assert sum(collected) == 20
    assert not any(file.exists() for file in unused)
    assert sum(1 for _ in store.glob(f"*/{FILE}")) == 3


def _unused(store: Path, identifier: str) -> Path:
    """A small item that nobody has used for two hours, once it is there."""
    file = store / identifier / FILE
    if not file.exists():
        DirectoryEmbeddingStore(store).save(identifier, np.arange(64, dtype=np.uint64))
    then = time.time() - 7200
    os.utime(file, (then, then))
    return file


def test_workers_send_an_item_to_one_encoder(engines: Engines, make_gateway: MakeGateway) -> None:
    """Load alone would spread the legs of several workers over both encoders."""
    engines.restore()
    gateway = make_gateway(engines, config=QUICK, workers=4)
    for name in ("encode-0", "encode-1"):
        engines[name].fail("slow:seconds=3")
    requests = [Asked(CHAT, vision_chat(7100, text=f"Question {number}?")) for number in range(16)]
    answers = ask(gateway.url, requests, 16)
    assert [answer.status for answer in answers] == [200] * 16
    encoders = {name for answer in answers for leg, name in answer.legs if leg == "encode"}
    assert len(encoders) == 1
    engines.restore()


async def test_a_fleet_collects_its_store(tmp_path: Path) -> None:
    """Told once with counts, silent when there is nothing to do, over when the fleet is."""
    store = tmp_path / "ec"
    file = _unused(store, "old")
    shown: list[Event] = []
    limits = Limits(older_than=60.0, window=3600.0)
    async with StoreCare([store, tmp_path / "not-there-yet"], limits, 0.05, shown.append) as care:
        deadline = time.monotonic() + 60
        while not shown:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert not file.exists()
        task = care._task
    assert task is not None
    assert task.done()
    assert len(shown) == 1
    assert isinstance(shown[0], Note)
    assert "removed items: 1 (corrupt: 0)" in shown[0].message
