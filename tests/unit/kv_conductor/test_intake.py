"""The turns of publishers: what one of them needs does not keep the others waiting."""

from __future__ import annotations

import asyncio

from pymotor.kv_conductor.intake import SHARE_SECONDS, Intake


class Batches:
    """So many batches that wait; what is applied is written down."""

    def __init__(self, name: str, batches: int, applied: list[str], takes: float = 0.0) -> None:
        """`takes`: seconds, as the intake counts them, without waiting for them."""
        self.queued = False
        self.seconds = 0.0
        self.left = batches
        self.done = asyncio.Event()
        self._name = name
        self._applied = applied
        self._takes = takes

    def apply_next(self) -> bool:
        self._applied.append(self._name)
        self.seconds += self._takes
        self.left -= 1
        if not self.left:
            self.done.set()
        return self.left > 0

    def broken(self, error: Exception) -> None:
        raise AssertionError from error


def until_last(name: str, applied: list[str]) -> int:
    """How many batches were applied when the last one of this name was."""
    return len(applied) - applied[::-1].index(name)


async def test_what_is_new_waits_for_one_replayed_batch_of_each_line() -> None:
    applied: list[str] = []
    intake = Intake(asyncio.get_running_loop())
    for number in range(50):
        intake.ready_missed(Batches(f"replay {number}", 1000, applied, SHARE_SECONDS))
    new = Batches("new", 10, applied)
    intake.ready(new)
    await asyncio.wait_for(new.done.wait(), 60)
    assert until_last("new", applied) <= 30


async def test_a_short_replay_is_done_before_long_ones_that_began_earlier() -> None:
    applied: list[str] = []
    intake = Intake(asyncio.get_running_loop())
    for number in range(50):
        long = Batches(f"long {number}", 1000, applied, SHARE_SECONDS)
        long.seconds = SHARE_SECONDS
        intake.ready_missed(long)
    short = Batches("short", 10, applied)
    intake.ready_missed(short)
    await asyncio.wait_for(short.done.wait(), 60)
    assert until_last("short", applied) <= 20


async def test_long_replays_share_the_time_whatever_short_ones_come() -> None:
    applied: list[str] = []
    intake = Intake(asyncio.get_running_loop())
    long = [Batches(f"long {number}", 20, applied, SHARE_SECONDS) for number in range(3)]
    for one in long:
        one.seconds = SHARE_SECONDS
        intake.ready_missed(one)
    for _ in range(1000):
        intake.ready_missed(Batches("short", 1, applied))
    for one in long:
        await asyncio.wait_for(one.done.wait(), 60)
    ends = [until_last(f"long {number}", applied) for number in range(3)]
    assert max(ends) - min(ends) <= 6, "they take turns"
    assert max(ends) <= 2 * 3 * 20 + 1, "every other turn is theirs"


async def test_of_short_replays_one_is_done_after_the_other() -> None:
    applied: list[str] = []
    intake = Intake(asyncio.get_running_loop())
    first, second = Batches("first", 5, applied), Batches("second", 5, applied)
    intake.ready_missed(first)
    intake.ready_missed(second)
    await asyncio.wait_for(second.done.wait(), 60)
    assert applied == ["first"] * 5 + ["second"] * 5


async def test_a_mistake_ends_the_turns_of_one_feed_alone() -> None:
    applied: list[str] = []
    broken: list[Exception] = []

    class Mistaken(Batches):
        def apply_next(self) -> bool:
            super().apply_next()
            raise ZeroDivisionError

        def broken(self, error: Exception) -> None:
            broken.append(error)

    intake = Intake(asyncio.get_running_loop())
    other = Batches("other", 3, applied)
    intake.ready_missed(Mistaken("mistaken", 3, applied))
    intake.ready_missed(other)
    await asyncio.wait_for(other.done.wait(), 60)
    assert applied == ["mistaken", "other", "other", "other"]
    assert len(broken) == 1
