"""Endpoints of two versions that cannot hand over to each other: which of the groups gets a request."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import uvloop

from holding_engines import holding_engines
from pymotor.coordinator.settings import RequestLimits, Settings
from worker_in_process import until

SESSIONS = [f"session {number}" for number in range(12)]
LITTLE = 30
"""A load, in tenths of a token: too little to move what has a key."""


def settings_of(scheduler_type: str, **more: object) -> Settings:
    return Settings(max_retry=0, retry_delay=0.0, scheduler_type=scheduler_type, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler_type", ["session_affinity", "prefix_hash"])
def test_what_belongs_together_stays_together(scheduler_type: str) -> None:
    async def scenario() -> None:
        async with holding_engines(("old", "old", "new", "new"), settings_of(scheduler_type)) as engines:
            gateway = engines.gateway
            texts = {session: f"{session} begins so " * 400 for session in SESSIONS}
            gateway.tell_fleet(gateway.instances[:2])
            before = {session: await engines.ask(text, session) for session, text in texts.items()}
            gateway.tell_fleet(gateway.instances)
            after = {session: await engines.ask(text, session) for session, text in texts.items()}
            for busy in range(4):
                gateway._ledger.begin(busy, LITTLE)
                for session, text in texts.items():
                    assert await engines.ask(f"{text} turn {busy}", session) == after[session]
                gateway._ledger.end(busy, LITTLE)
            moved = [session for session in SESSIONS if after[session] != before[session]]
            assert 0 < len(moved) < len(SESSIONS)
            assert all(after[session] >= 2 for session in moved), "only what has to move moves"

    uvloop.run(scenario())


@pytest.mark.parametrize("scheduler_type", ["session_affinity", "kv_cache_affinity"])
def test_nobody_waits_for_a_full_group_while_the_other_has_room(scheduler_type: str) -> None:
    async def scenario() -> None:
        settings = settings_of(scheduler_type, limits=RequestLimits(union=1))
        async with holding_engines(("old", "new"), settings) as engines:
            text = "one beginning " * 400
            own = await engines.ask(text, "one")
            assert await engines.ask(text, "one") == own
            engines.hold(own)
            holding = asyncio.create_task(engines.ask(text + "held", "one"))
            await until(lambda: len(engines.served) == 3, "its engine is full")
            assert await engines.ask(text, "one") == 1 - own
            engines.release(own)
            assert await holding == own

    uvloop.run(scenario())


@pytest.mark.parametrize("scheduler_type", ["load_balance", "round_robin", "kv_cache_affinity"])
def test_equals_take_turns_in_all_groups(scheduler_type: str) -> None:
    async def scenario() -> None:
        async with holding_engines(("old", "old", "old", "new"), settings_of(scheduler_type)) as engines:
            got = Counter([await engines.ask(f"{number} is like no other " * 20) for number in range(24)])
            assert got == dict.fromkeys(range(4), 6)

    uvloop.run(scenario())


def test_the_less_loaded_group_is_chosen_whosever_turn_it_is() -> None:
    async def scenario() -> None:
        async with holding_engines(("old", "old", "new"), settings_of("load_balance")) as engines:
            for busy in (0, 1):
                engines.gateway._ledger.begin(busy, LITTLE)
            assert [await engines.ask(f"number {number}") for number in range(6)] == [2] * 6
            for busy in (0, 1):
                engines.gateway._ledger.end(busy, LITTLE)

    uvloop.run(scenario())
