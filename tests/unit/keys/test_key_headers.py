"""Where a key stands in a request's headers."""

from __future__ import annotations

import pytest

from pymotor.coordinator.keys.admittance import KeyHeaders, Refusal


@pytest.mark.parametrize(("headers", "key"), [
    ({}, b""),
    ({b"authorization": b"Bearer k"}, b"k"),
    ({b"authorization": b"bearer  k"}, b"k"),
    ({b"authorization": b"k"}, b"k"),
    ({b"authorization": b"Bearer "}, b""),
    ({b"authorization": b"Basic k"}, b"Basic k"),
    ({b"x-api-key": b"k"}, b"k"),
    ({b"authorization": b"Bearer k", b"x-api-key": b"k"}, b"k"),
    ({b"x-other": b"k"}, b""),
])  # fmt: skip
def test_the_key_of_a_request(headers: dict[bytes, bytes], key: bytes) -> None:
    assert KeyHeaders().key_in(headers) == key


def test_a_header_and_a_prefix_of_ones_own() -> None:
    own = KeyHeaders("X-Token", "Key ")
    assert own.key_in({b"x-token": b"Key k", b"authorization": b"Bearer other"}) == b"k"
    assert own.names == {b"x-token", b"x-api-key"}


def test_two_keys_are_none() -> None:
    with pytest.raises(Refusal) as caught:
        KeyHeaders().key_in({b"authorization": b"Bearer first", b"x-api-key": b"second"})
    assert caught.value.status == 401
    assert "first" not in str(caught.value)
