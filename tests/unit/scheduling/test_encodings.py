"""What a worker knows of encodings: one leg for an item, waited for by many, remembered for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymotor.coordinator.scheduling.encodings import Encoding, Encodings, ItemKey, Part
from pymotor.fleet import ECDialect, ECTransfer, Endpoint, EndpointState, Instance, Role

STORE = "/store"
FOR_EVER = float("inf")


def part(text: str) -> Part:
    return {"type": msgspec.Raw(b'"image_url"'), "image_url": msgspec.Raw(msgspec.json.encode(text))}


def key(digest: int, scope: str = STORE) -> ItemKey:
    return ItemKey(scope, b'"tiny"', (b"", b""), "image_url", digest)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time is the real one and so many seconds more."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def run(scenario: Callable[[Clock], Awaitable[None]]) -> None:
    """Run it, with everything that nobody caught as an error."""
    loop = Clock()
    loose: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: loose.append(context))
    try:
        loop.run_until_complete(scenario(loop))
        assert not asyncio.all_tasks(loop), "something still runs"
    finally:
        loop.close()
    assert not loose


def encodings(loop: Clock, *, reuse_seconds: float = 60.0, reuse_bytes: int = 1 << 20) -> Encodings:
    return Encodings(loop, reuse_seconds=reuse_seconds, reuse_bytes=reuse_bytes)


async def encode(found: Encodings, item: ItemKey, text: str, encoder: str = "encode-0") -> Encoding:
    """An item that is encoded at once, and may be used again."""

    async def leg() -> Encoding:
        return Encoding(encoder)

    return await found.wait(found.start(item, part(text), leg(), until=FOR_EVER, reusable=True))


class Leg:
    """An encoder's answer that the test decides on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Encoding] = loop.create_future()
        self.over = False

    async def __call__(self) -> Encoding:
        try:
            return await self.answer
        finally:
            self.over = True


class Waiter:
    """One request that wants an item."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, found: Encodings, item: int, legs: list[tuple[int, Leg]]
    ) -> None:
        self.item = item
        self.joined = True
        self.leg: Leg | None = None
        self._found = found
        self._legs = legs
        self.task = loop.create_task(self._want(loop))

    async def _want(self, loop: asyncio.AbstractEventLoop) -> Encoding:
        leg = self._found.underway(key(self.item), part(str(self.item)))
        if leg is None:
            self.joined = False
            work = Leg(loop)
            self._legs.append((self.item, work))
            leg = self._found.start(key(self.item), part(str(self.item)), work(), until=FOR_EVER, reusable=False)
        self.leg = next(work for item, work in reversed(self._legs) if item == self.item)
        return await self._found.wait(leg)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["leave", "answer", "fail"]), st.integers(0, 30)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS)
def test_whatever_comes_in_whatever_order_nothing_is_held_and_nobody_waits_for_ever(
    steps: list[tuple[str, int]],
) -> None:
    async def scenario(loop: Clock) -> None:
        found = encodings(loop)
        legs: list[tuple[int, Leg]] = []
        waiters: list[Waiter] = []
        left: set[Waiter] = set()
        for step, number in steps:
            if step == "want":
                waiters.append(Waiter(loop, found, number, legs))
            elif step == "leave" and waiters:
                waiter = waiters[number % len(waiters)]
                if waiter.task.cancel():
                    left.add(waiter)
            elif step == "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
                under_way = [item for item, leg in legs if not leg.over and not leg.answer.done()]
                assert len(under_way) == len(set(under_way)), "two legs for one item"
            elif legs:
                answer = legs[number % len(legs)][1].answer
                if not answer.done():
                    if step == "answer":
                        answer.set_result(Encoding(f"answer {number}"))
                    else:
                        answer.set_exception(LookupError(f"failure {number}"))
        for _ in range(10):
            await asyncio.sleep(0)
        for _, leg in legs:
            if not leg.answer.done():
                leg.answer.set_result(Encoding("late"))
        results = await asyncio.wait_for(
            asyncio.gather(*(waiter.task for waiter in waiters), return_exceptions=True), timeout=60
        )
        for waiter, result in zip(waiters, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                assert waiter in left, "one that left took another with it"
            elif waiter.leg is not None and not isinstance(result, BaseException):
                assert result is waiter.leg.answer.result()
            else:
                assert isinstance(result, LookupError)
        for _ in range(3):
            await asyncio.sleep(0)
        assert found.held == (0, 0, 0)
        assert all(leg.over for _, leg in legs), "a leg nobody waits for goes on"

    run(scenario)


def test_many_wait_for_one_leg_and_the_first_may_leave() -> None:
    async def scenario(loop: Clock) -> None:
        found, legs = encodings(loop), list[tuple[int, Leg]]()
        waiters = [Waiter(loop, found, 7, legs) for _ in range(20)]
        await asyncio.sleep(0)
        assert len(legs) == 1
        waiters[0].task.cancel()
        await asyncio.sleep(0)
        legs[0][1].answer.set_result(Encoding("encode-0"))
        results = await asyncio.gather(*(waiter.task for waiter in waiters[1:]))
        assert all(result.encoder == "encode-0" for result in results)
        assert [waiter.joined for waiter in waiters] == [False] + [True] * 19
        with pytest.raises(asyncio.CancelledError):
            await waiters[0].task

    run(scenario)


def test_when_the_last_one_leaves_the_leg_is_over_before_it_has_left() -> None:
    async def scenario(loop: Clock) -> None:
        found, legs = encodings(loop), list[tuple[int, Leg]]()
        first, second = (Waiter(loop, found, 7, legs) for _ in range(2))
        await asyncio.sleep(0)
        first.task.cancel()
        await asyncio.wait([first.task])
        assert not legs[0][1].over, "the other one still waits"
        second.task.cancel()
        await asyncio.wait([second.task])
        assert legs[0][1].over
        assert found.held == (0, 0, 0)
        third = Waiter(loop, found, 7, legs)
        await asyncio.sleep(0)
        assert len(legs) == 2, "what is being cancelled is not joined"
        legs[1][1].answer.set_result(Encoding("encode-0"))
        await third.task

    run(scenario)


def test_items_whose_hashes_collide_share_nothing() -> None:
    """A client can make its item's hash what it likes."""

    async def scenario(loop: Clock) -> None:
        found = encodings(loop)
        answers = [Leg(loop), Leg(loop)]
        mine = found.start(key(1), part("mine"), answers[0](), until=FOR_EVER, reusable=True)
        assert found.underway(key(1), part("other")) is None
        others = found.start(key(1), part("other"), answers[1](), until=FOR_EVER, reusable=True)
        assert found.underway(key(1), part("mine")) is mine
        waiting = [loop.create_task(found.wait(leg)) for leg in (mine, others)]
        answers[1].answer.set_result(Encoding("for the other"))
        assert (await waiting[1]).encoder == "for the other"
        assert found.underway(key(1), part("mine")) is mine
        answers[0].answer.set_result(Encoding("for me"))
        assert (await waiting[0]).encoder == "for me"
        known = found.known(key(1), part("mine"))
        assert known is not None
        assert known.encoder == "for me"
        assert found.known(key(1), part("other")) is None

    run(scenario)


def test_what_was_encoded_is_known_until_its_time_is_over() -> None:
    async def scenario(loop: Clock) -> None:
        found = encodings(loop, reuse_seconds=60)
        await encode(found, key(1), "one")
        assert found.known(key(1), part("one")) is not None
        assert found.known(key(2), part("one")) is None
        assert found.known(key(1, "/another"), part("one")) is None
        loop.ahead = 30
        await encode(found, key(2), "two")
        loop.ahead = 61
        assert found.known(key(1), part("one")) is None
        assert found.known(key(2), part("two")) is not None
        found.close_expired()
        assert found.held[:2] == (0, 1)
        loop.ahead = 91
        found.close_expired()
        assert found.held == (0, 0, 0)

    run(scenario)


def test_nothing_is_remembered_when_it_is_off_or_may_not_be() -> None:
    async def scenario(loop: Clock) -> None:
        off = encodings(loop, reuse_seconds=0)
        await encode(off, key(1), "one")
        assert off.held == (0, 0, 0)
        found = encodings(loop)
        answer = Leg(loop)
        leg = found.start(key(1), part("one"), answer(), until=FOR_EVER, reusable=False)
        answer.answer.set_result(Encoding("encode-0"))
        await found.wait(leg)
        assert found.held == (0, 0, 0)

    run(scenario)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5000)), max_size=30))
def test_memory_is_bounded_and_the_oldest_goes_first(items: list[tuple[int, int]]) -> None:
    async def scenario(loop: Clock) -> None:
        found = encodings(loop, reuse_bytes=8000)
        newest = None
        for digest, length in items:
            await encode(found, key(digest), "x" * length)
            assert found.held[2] <= 8000
            newest = (digest, length)
        if newest is not None and newest[1] < 6000:
            assert found.known(key(newest[0]), part("x" * newest[1])) is not None
        loop.ahead = 100
        found.close_expired()
        assert found.held == (0, 0, 0)

    run(scenario)


def test_a_doubt_drops_what_is_known_and_what_is_still_under_way_is_not_remembered() -> None:
    async def scenario(loop: Clock) -> None:
        found = encodings(loop)
        await encode(found, key(1), "one")
        await encode(found, key(2), "two")
        answer = Leg(loop)
        leg = found.start(key(3), part("three"), answer(), until=FOR_EVER, reusable=True)
        waiting = loop.create_task(found.wait(leg))
        await asyncio.sleep(0)
        found.forget([key(1)])
        assert found.known(key(1), part("one")) is None
        assert found.known(key(2), part("two")) is not None
        answer.answer.set_result(Encoding("encode-0"))
        await waiting
        assert found.known(key(3), part("three")) is None

    run(scenario)


def member(name: str, role: Role, store: str, port: int, state: EndpointState = EndpointState.READY) -> Instance:
    return Instance(
        name=name,
        role=role,
        models=("tiny",),
        engine="sim",
        endpoints=(Endpoint(id=f"{name}/0", url=f"http://127.0.0.1:{port}", state=state),),
        ec=ECTransfer(
            connector="ECExampleConnector",
            dialect=ECDialect.STORE,
            produces=role is Role.ENCODE,
            consumes=role is not Role.ENCODE,
            store=store,
        ),
    )


FLEET = (member("encode-0", Role.ENCODE, STORE, 1), member("prefill-0", Role.PREFILL, STORE, 2))
OTHERS = (member("encode-1", Role.ENCODE, "/another", 3),)


@pytest.mark.parametrize(
    ("fleet", "kept"),
    [
        (FLEET + OTHERS, True),
        ((*reversed(FLEET), *OTHERS), True),
        (FLEET, True),
        ((member("encode-0", Role.ENCODE, STORE, 9), *FLEET[1:], *OTHERS), False),
        ((member("encode-0", Role.ENCODE, STORE, 1, EndpointState.UNHEALTHY), *FLEET[1:], *OTHERS), False),
        ((*FLEET, member("prefill-1", Role.PREFILL, STORE, 9), *OTHERS), False),
        (FLEET[1:] + OTHERS, False),
        (OTHERS, False),
        ((), False),
    ],
)
def test_a_store_whose_instances_change_is_not_trusted(fleet: tuple[Instance, ...], kept: bool) -> None:
    async def scenario(loop: Clock) -> None:
        found = encodings(loop)
        found.fleet_changed(FLEET + OTHERS)
        await encode(found, key(1), "one")
        await encode(found, key(2, "/another"), "two")
        found.fleet_changed(fleet)
        assert (found.known(key(1), part("one")) is not None) == kept
        assert (found.known(key(2, "/another"), part("two")) is not None) == (OTHERS[0] in fleet)

    run(scenario)


def test_a_failure_that_nobody_waits_for_any_more_is_nobodys_business() -> None:
    """The leg ends by itself in the very moment in which it is cancelled: nothing is logged, see `run`."""

    async def scenario(loop: Clock) -> None:
        found = encodings(loop)

        async def stubborn() -> Encoding:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise LookupError("broke while it was closed") from None
            return Encoding("encode-0")

        leg = found.start(key(1), part("one"), stubborn(), until=FOR_EVER, reusable=True)
        waiting = loop.create_task(found.wait(leg))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert found.held == (0, 0, 0)

    run(scenario)


def test_new_limits_hold_for_what_is_remembered() -> None:
    async def scenario(loop: Clock) -> None:
        found = encodings(loop)
        for digest in range(3):
            await encode(found, key(digest), str(digest))
        size = found.held[2]
        found.use(reuse_seconds=90.0, reuse_bytes=size - 1)
        assert found.known(key(0), part("0")) is None, "the oldest goes first"
        assert found.known(key(2), part("2")) is not None
        found.use(reuse_seconds=0.0, reuse_bytes=size)
        assert found.held == (0, 0, 0), "nothing is remembered for longer than is now allowed"
        await encode(found, key(4), "4")
        assert found.held == (0, 0, 0)

    run(scenario)
