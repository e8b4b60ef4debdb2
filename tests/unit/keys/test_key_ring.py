"""Which texts are good keys, what is remembered of them, and what happens to those who guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from pymotor.coordinator.keys.api_key import ApiKey, Scope, id_in, new_key
from pymotor.coordinator.keys.key_hash import hash_of
from pymotor.coordinator.keys.key_ring import KeyRing, TooManyUnknown, expired

SLOW = 2_000_000
"""Iterations that take the better part of a second: no guess is through before the others are there."""


def key_of(text: str, *, key_id: str = "", iterations: int = 10, expires_at: float | None = None) -> ApiKey:
    return ApiKey(
        id=key_id or f"configured-{text}",
        name=text[:20],
        hash=hash_of(text, iterations),
        scopes=frozenset((Scope.INFERENCE,)),
        configured=not key_id,
        expires_at=expires_at,
    )


@pytest.fixture
def ring() -> Iterator[KeyRing]:
    ring = KeyRing()
    yield ring
    ring.close()


async def test_a_key_is_known_once_it_was_found(ring: KeyRing) -> None:
    key_id, text = new_key()
    mine, other = key_of(text, key_id=key_id), key_of("plain")
    ring.replace([other, mine])
    assert ring.known(text.encode()) is None
    assert await ring.find(text.encode()) is mine
    assert ring.known(text.encode()) is mine
    assert await ring.find(b"plain") is other


@pytest.mark.parametrize("shown", [b"", b"x", b"plain ", b"PLAIN", b"plain\0", b"p" * 513, "plaín".encode()])
async def test_what_is_no_key_is_none(ring: KeyRing, shown: bytes) -> None:
    ring.replace([key_of("plain")])
    assert await ring.find(shown) is None
    assert await ring.find(shown) is None
    assert ring.known(shown) is None


async def test_a_stored_hash_is_no_key(ring: KeyRing) -> None:
    key = key_of("plain")
    ring.replace([key])
    for shown in (key.hash, key.hash.split(":")[2], key.hash.split(":")[0]):
        assert await ring.find(shown.encode()) is None


async def test_a_key_that_names_its_id_is_compared_with_no_other(ring: KeyRing) -> None:
    key_id, text = new_key()
    ring.replace([key_of(text, key_id=key_id)])
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert id_in(wrong.encode()) == key_id
    assert await ring.find(wrong.encode()) is None
    assert await ring.find(new_key()[1].encode()) is None


async def test_a_key_that_is_taken_away_is_unknown_at_once_and_the_others_stay_known(ring: KeyRing) -> None:
    gone, stays = key_of("gone"), key_of("stays")
    ring.replace([gone, stays])
    assert await ring.find(b"gone") is gone
    assert await ring.find(b"stays") is stays
    ring.replace([stays])
    assert ring.known(b"gone") is None
    assert ring.known(b"stays") is stays
    assert await ring.find(b"gone") is None
    ring.replace([stays, gone])
    assert await ring.find(b"gone") is gone, "that it was no key is not remembered longer than it is true"


async def test_an_id_with_another_hash_is_another_key(ring: KeyRing) -> None:
    key_id, text = new_key()
    ring.replace([key_of(text, key_id=key_id)])
    assert await ring.find(text.encode()) is not None
    ring.replace([key_of("something else", key_id=key_id)])
    assert ring.known(text.encode()) is None


async def test_keys_that_change_while_one_is_compared(ring: KeyRing) -> None:
    ring.replace([key_of("slow", iterations=SLOW)])
    finding = asyncio.create_task(ring.find(b"slow"))
    await asyncio.sleep(0)
    ring.replace([])
    assert await finding is None


async def test_whoever_guesses_keeps_nobody_up_who_is_known(ring: KeyRing) -> None:
    ring.replace([key_of("good")])
    assert await ring.find(b"good") is not None
    ring.replace([key_of("slow", iterations=SLOW), *[key for key in [ring.known(b"good")] if key]])
    guesses = [asyncio.create_task(ring.find(b"guess %d" % number)) for number in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ring.known(b"good") is not None
    with pytest.raises(TooManyUnknown):
        await ring.find(b"one more")
    for guess in guesses:
        guess.cancel()
    await asyncio.gather(*guesses, return_exceptions=True)


def test_expiry() -> None:
    assert not expired(key_of("never"))
    assert not expired(key_of("later", expires_at=time.time() + 100))
    assert expired(key_of("before", expires_at=time.time() - 1))


def test_who_may_change_things_may_see_them_and_nothing_else() -> None:
    import msgspec

    admin = msgspec.structs.replace(key_of("admin"), scopes=frozenset((Scope.ADMIN,)))
    assert [admin.may(scope) for scope in Scope] == [False, True, True]
    reader = msgspec.structs.replace(admin, scopes=frozenset((Scope.READ,)))
    assert [reader.may(scope) for scope in Scope] == [False, True, False]
