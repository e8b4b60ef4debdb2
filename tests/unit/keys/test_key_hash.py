"""Stored keys: the form of older PyMotor, and nothing that only looks like it."""

from __future__ import annotations

import hashlib

import pytest

from pymotor.coordinator.keys.key_hash import KeyHash, KeyHashError, hash_of


def test_a_hash_that_older_pymotor_made_fits_its_key() -> None:
    made = hashlib.pbkdf2_hmac("sha256", b"sk-test123456789", b"0123456789abcdef0123456789abcdef", 100_000, 32).hex()
    stored = KeyHash(f"0123456789abcdef0123456789abcdef:100000:{made}")
    assert stored.fits(b"sk-test123456789")
    assert not stored.fits(b"sk-test123456788")
    assert not stored.fits(made.encode())


def test_equal_keys_have_different_hashes_that_both_fit() -> None:
    first, second = hash_of("a key", 10), hash_of("a key", 10)
    assert first != second
    assert KeyHash(first).fits(b"a key")
    assert KeyHash(second).fits(b"a key")
    assert not KeyHash(first).fits(first.encode())


@pytest.mark.parametrize("stored", [
    "", "plain", "salt:1000", f"salt:0:{'0' * 64}", f"salt:-1:{'0' * 64}", f"salt:10000001:{'0' * 64}",
    f"salt:1e3:{'0' * 64}", f"salt:1000:{'0' * 63}", f"salt:1000:{'g' * 64}", f":1000:{'0' * 64}",
    f"sa lt:1000:{'0' * 64}", f"salt:1000:{'0' * 64}\n",
])  # fmt: skip
def test_what_is_no_hash_is_refused_and_not_shown(stored: str) -> None:
    with pytest.raises(KeyHashError) as caught:
        KeyHash(stored)
    assert not stored or stored not in str(caught.value)


def test_a_hash_does_not_show_itself() -> None:
    stored = hash_of("a key", 10)
    assert stored.split(":")[2] not in repr(KeyHash(stored))
