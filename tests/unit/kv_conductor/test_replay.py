"""Asking an engine for what was missed: what waits here is bounded, and nothing stays of it, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest
import zmq
import zmq.asyncio

from pymotor.kv_conductor import replay as replay_module
from pymotor.kv_conductor.intake import Intake
from pymotor.kv_conductor.replay import Ending, Replay, ReplayError, Taken
from pymotor.kv_conductor.replay_room import ReplayRoom, WaitingBatches

SECONDS = 60.0
END = b"\xff" * 8
KIB = 1024
LONG = bytes(64 * KIB)


class Busy:
    """Somebody else who has all turns of what was missed, for so many seconds."""

    def __init__(self, intake: Intake, seconds: float) -> None:
        self.queued = False
        self.seconds = 0.0
        self._ends = monotonic() + seconds
        intake.ready_missed(self)

    def apply_next(self) -> bool:
        self.seconds = 0.0
        return monotonic() < self._ends

    def broken(self, error: Exception) -> None:
        raise AssertionError from error


class Engine:
    """A replay port that is asked once."""

    def __init__(self, router: zmq.asyncio.Socket) -> None:
        self.port = router.bind_to_random_port("tcp://127.0.0.1")
        self._router = router
        self._who = b""

    async def asked(self) -> int:
        """From which number on."""
        self._who, _, start = await asyncio.wait_for(self._router.recv_multipart(), SECONDS)
        return int.from_bytes(start, "big")

    async def answer(self, number: int, payload: bytes = b"a batch") -> None:
        await self._router.send_multipart([self._who, b"", number.to_bytes(8, "big"), payload])

    async def end(self) -> None:
        await self._router.send_multipart([self._who, b"", END, b""])


@contextmanager
def engine() -> Iterator[Engine]:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.SNDHWM, 0)
        router.setsockopt(zmq.LINGER, 0)
        yield Engine(router)


class Measured(ReplayRoom):
    """Remembers the most that was taken of it."""

    highest = 0

    @property
    def taken(self) -> int:
        return self._taken

    @taken.setter
    def taken(self, taken: int) -> None:
        self._taken = taken
        self.highest = max(self.highest, taken)


@pytest.mark.parametrize("most", [0, 4 * 1024 * KIB])
async def test_what_comes_faster_than_it_is_applied_waits_at_the_engine(most: int) -> None:
    numbers: list[int] = []

    def take(number: int, _: bytes) -> Taken:
        numbers.append(number)
        return Taken.ON

    intake, room = Intake(asyncio.get_running_loop()), Measured(most)
    with engine() as one:
        asking = asyncio.create_task(Replay(intake, room, take).ask("127.0.0.1", one.port, 5))
        assert await one.asked() == 5
        Busy(intake, 0.5)
        for number in range(300):
            await one.answer(number, LONG)
        await one.end()
        assert await asyncio.wait_for(asking, SECONDS) is Ending.COMPLETE
    assert numbers == list(range(300))
    # Beyond that, what was read in one go.
    assert room.highest <= most + 1024 * KIB
    assert room.taken == 0


def test_each_may_have_a_little_waiting_whatever_others_have() -> None:
    room = ReplayRoom(1024 * KIB)
    many, few = WaitingBatches(room), WaitingBatches(room)
    for number in range(16):
        assert not many.too_many
        many.put(number, LONG)
    assert many.too_many
    few.put(0, LONG)
    assert not few.too_many
    assert few.few
    few.clear()
    while many:
        many.take_off()
    assert many.few
    assert room.taken == 0


def test_batches_without_a_payload_take_room_too() -> None:
    waiting = WaitingBatches(ReplayRoom(0))
    for number in range(256 * KIB):
        if waiting.too_many:
            break
        waiting.put(number, b"")
    assert waiting.too_many


async def test_who_is_not_waited_for_any_more_has_no_room() -> None:
    intake, room = Intake(asyncio.get_running_loop()), ReplayRoom()
    came = asyncio.Event()

    def take(*_: object) -> Taken:
        came.set()
        return Taken.PART

    with engine() as one:
        asking = asyncio.create_task(Replay(intake, room, take).ask("127.0.0.1", one.port, 0))
        await one.asked()
        await one.answer(0)
        await asyncio.wait_for(came.wait(), SECONDS)
        assert room.taken > 0
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert room.taken == 0


async def test_an_engine_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "WHOLE_SECONDS", 0.3)
    room = ReplayRoom()

    async def never_end() -> None:
        number = 0
        while True:
            await one.answer(number)
            await asyncio.sleep(0)
            number += 1

    with engine() as one:
        replay = Replay(Intake(asyncio.get_running_loop()), room, lambda *_: Taken.ON)
        asking = asyncio.create_task(replay.ask("127.0.0.1", one.port, 0))
        await one.asked()
        answering = asyncio.create_task(never_end())
        with pytest.raises(ReplayError, match="did not end"):
            await asyncio.wait_for(asking, SECONDS)
        answering.cancel()
        await asyncio.wait({answering})
    assert room.taken == 0


async def test_an_engine_has_not_to_answer_for_the_turns_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "WHOLE_SECONDS", 1.5)
    intake = Intake(asyncio.get_running_loop())
    with engine() as one:
        Busy(intake, 3.0)
        asking = asyncio.create_task(Replay(intake, ReplayRoom(), lambda *_: Taken.ON).ask("127.0.0.1", one.port, 0))
        await one.asked()
        await one.answer(0)
        await one.end()
        assert await asyncio.wait_for(asking, SECONDS) is Ending.COMPLETE


async def test_what_is_not_answered_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "IDLE_SECONDS", 0.1)
    with engine() as one:
        replay = Replay(Intake(asyncio.get_running_loop()), ReplayRoom(), lambda *_: Taken.ON)
        assert await replay.ask("127.0.0.1", one.port, 0) is Ending.STOPPED
