"""Who is on this machine."""

from __future__ import annotations

import socket

import pytest

from pymotor.control_plane.nearness import is_near


@pytest.mark.parametrize(("peer", "reached_at"), [
    ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "::"), ("192.0.2.1", "192.0.2.1"),
])  # fmt: skip
def test_near(peer: str, reached_at: str) -> None:
    assert is_near(peer, reached_at, {"host": f"{socket.gethostname()}:1"})
    assert is_near(peer, reached_at, {"host": "192.0.2.1:1"})
    assert is_near(peer, reached_at, {})


@pytest.mark.parametrize(("peer", "reached_at", "headers"), [
    ("192.0.2.2", "192.0.2.1", {}), ("", "", {}), ("nonsense", "nonsense", {}), ("::ffff:192.0.2.2", "::1", {}),
    ("127.0.0.1", "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
    ("127.0.0.1", "127.0.0.1", {"forwarded": "for=127.0.0.1"}),
    ("127.0.0.1", "127.0.0.1", {"via": "1.1 proxy"}),
    ("127.0.0.1", "127.0.0.1", {"origin": "https://evil.example", "host": "127.0.0.1"}),
    ("127.0.0.1", "127.0.0.1", {"sec-fetch-site": "cross-site", "host": "127.0.0.1"}),
    ("127.0.0.1", "127.0.0.1", {"sec-fetch-site": "same-origin", "host": "rebound.example:1026"}),
    ("127.0.0.1", "127.0.0.1", {"host": "rebound.example:1026"}),
    ("127.0.0.1", "127.0.0.1", {"origin": "http://127.0.0.1", "host": "127.0.0.1"}),
])  # fmt: skip
def test_not_near(peer: str, reached_at: str, headers: dict[str, str]) -> None:
    assert not is_near(peer, reached_at, headers)


@pytest.mark.parametrize("host", ["127.0.0.1:1026", "localhost:1026", "localhost", "[::1]:1026", "[::1]", "127.0.0.1"])
def test_a_browser_on_this_machine(host: str) -> None:
    assert is_near("127.0.0.1", "127.0.0.1", {"sec-fetch-site": "same-origin", "host": host})
