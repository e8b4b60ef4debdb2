"""Headers that engines get: those named, none that is barred, no line more than that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.forwarding import BARRED_HEADERS, FORWARDED_HEADERS, Forwarding, is_forwardable

NAMES = st.sampled_from((*FORWARDED_HEADERS, *BARRED_HEADERS, "x-mine", "x-other"))
HEADERS = st.dictionaries(NAMES.map(lambda name: name.lower().encode()), st.binary(max_size=20), max_size=8)


def test_nothing_costs_nothing() -> None:
    assert Forwarding().lines({b"host": b"a", b"x-request-id": b"1", b"authorization": b"Bearer secret"}) == b""


def test_the_list() -> None:
    headers = {name.lower().encode(): f"v{number}".encode() for number, name in enumerate(FORWARDED_HEADERS)}
    lines = Forwarding().lines({**headers, b"cookie": b"c", b"x-mine": b"m"})
    assert lines.decode().split("\r\n") == [*(f"{n}: v{number}" for number, n in enumerate(FORWARDED_HEADERS)), ""]
    assert Forwarding(("X-Mine",)).lines({b"x-mine": b"m"}) == b"X-Mine: m\r\n"


@given(HEADERS, st.lists(NAMES), st.booleans(), st.sampled_from(("", "key")))
def test_no_barred_header_and_no_line_more(
    headers: dict[bytes, bytes], more: list[str], authorization: bool, key: str
) -> None:
    lines = Forwarding(more, authorization=authorization, engine_key=key).lines(headers)
    *found, last = lines.split(b"\r\n")
    assert last == b""
    for line in found:
        name, _, value = line.partition(b": ")
        lower = name.lower()
        assert b"\r" not in line
        assert b"\n" not in line
        if lower == b"authorization":
            assert value == b"Bearer key" if key else authorization and value == headers[lower]
        else:
            assert lower.decode() not in BARRED_HEADERS
            assert value == headers[lower]
    names = [line.partition(b":")[0].lower() for line in found]
    assert len(names) == len(set(names))


def test_the_engines_key_beats_the_clients() -> None:
    forwarding = Forwarding(authorization=True, engine_key="secret")
    assert forwarding.lines({b"authorization": b"Bearer mine"}) == b"Authorization: Bearer secret\r\n"
    assert forwarding.lines({}) == b"Authorization: Bearer secret\r\n"
    assert Forwarding(authorization=True).lines({b"authorization": b"Bearer mine"}) == b"Authorization: Bearer mine\r\n"


@pytest.mark.parametrize("key", ["a\r\nX: y", "a\n", "ключ", "\0"])
def test_a_key_that_is_no_header_value(key: str) -> None:
    with pytest.raises(ValueError) as caught:
        Forwarding(engine_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(("name", "may"), [
    ("X-Mine", True), ("x_mine", True), ("", False), ("Host", False), ("Content-MD5", False), ("Cookie", False),
    ("Authorization", False), ("X-Request-Id", False), ("Transfer-Encoding", False), ("a b", False), ("a:b", False),
    ("a\r\nb", False), ("é", False), ("X-data-parallel-rank", False),
])  # fmt: skip
def test_names_a_configuration_may_have(name: str, may: bool) -> None:
    assert is_forwardable(name) is may
