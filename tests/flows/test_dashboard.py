"""What the dashboard's page is told: the fleet, the series, requests step by step; and who is told nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import plain_http
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway
from images import text_chat, vision_chat
from keyed_gateway import Keys
from processes import wait_until
from raw_client import RawConnection

MARKUP = "<img src=x onerror=alert(1)>"
RELAYED = "X-Forwarded-For: 192.0.2.7"
PAGES = ("/dashboard", "/dashboard/page/main.js", "/dashboard/page/base.css")
DATA = ("/dashboard/fleet", "/dashboard/series", "/dashboard/requests", "/dashboard/requests/0-00000000-1")


@pytest.fixture(scope="module")
def shown(engines: Engines) -> Iterator[Gateway]:
    names = [name for name in engines.fleet if not name.startswith("union")]
    with Gateway(engines, names, label="dashboard", workers=2) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("dashboard") / "keys.json")
    for scope in ("inference", "read"):
        keys.create(scope, "--scope", scope)
    return keys


@pytest.fixture(scope="module")
def keyed(engines: Engines, keys: Keys) -> Iterator[Gateway]:
    config = {"api_key_config": {"enable_api_key": True, "keys_file": str(keys.file)}}
    with Gateway(engines, ["union-0"], config=config, label="dashboard-keys") as gateway:
        yield gateway


def told(gateway: Gateway, path: str) -> Any:
    reply = plain_http.get(f"{gateway.management_url}/dashboard/{path}", timeout=60).raise_for_status()
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    return reply.json()


def raw(gateway: Gateway, path: str, *lines: str, method: str = "GET") -> int:
    with RawConnection(int(gateway.management_url.rsplit(":", 1)[1])) as connection:
        connection.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode())
        return connection.reply(head_only=method == "HEAD").status


def whole(gateway: Gateway, row: dict[str, Any]) -> dict[str, Any]:
    """All that is told of this request, once its worker tells it in time."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        reply = plain_http.get(f"{gateway.management_url}/dashboard/requests/{row['id']}")
        found[:] = [reply.json()] if reply.status_code == 200 else []
        return bool(found)

    wait_until(there, "its worker tells of it")
    return found[0]


def finished(gateway: Gateway, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The newest such request, once a worker tells of it."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [one for one in told(gateway, "requests")["requests"] if matches(one)]
        return bool(found)

    wait_until(there, "the request is told of")
    return found[0]


def test_the_fleet_with_what_engines_say(shown: Gateway) -> None:
    def known() -> bool:
        return all(one["running"] is not None for one in told(shown, "fleet")["instances"])

    wait_until(known, "the engines were asked")
    fleet = told(shown, "fleet")
    assert fleet["ready"]
    assert (fleet["workers"], fleet["workers_listening"]) == (2, 2)
    assert {one["name"] for one in fleet["instances"]} == set(shown.names)
    one = next(one for one in fleet["instances"] if one["name"] == "decode-0")
    assert (one["role"], one["state"], one["endpoints"][0]["id"]) == ("decode", "active", "decode-0/0")
    assert 0 <= one["kv_usage"] <= 1


def test_the_series_grows_and_has_what_happened(shown: Gateway) -> None:
    assert ask_one(shown.url, text_chat(max_tokens=4)).status == 200

    def happened() -> bool:
        points = told(shown, "series")["points"]
        return any(one["requests_per_second"] > 0 and one["first_token_p50"] for one in points)

    wait_until(happened, "a point has the request")
    wait_until(lambda: len(told(shown, "series")["points"]) >= 2, "there is another point")
    first, *others = told(shown, "series")["points"]
    # Another one may have come since.
    assert told(shown, f"series?after={first['time']}")["points"][: len(others)] == others


def test_a_request_step_by_step(shown: Gateway) -> None:
    name = {"X-Request-Id": "shown-whole"}
    assert ask_one(shown.url, vision_chat(1, max_tokens=4), **name).status == 200
    row = finished(shown, lambda one: one["request_id"] == "shown-whole")
    assert row["followed"]
    assert (row["status"], row["outcome"], row["path"]) == (200, "answered", "/v1/chat/completions")
    assert [leg["leg"] for leg in row["legs"] if leg["instance"]] == ["encode", "prefill", "decode"]
    found = whole(shown, row)
    assert {name: found[name] for name in row} == row
    steps = {step["leg"]: step for step in found["steps"]}
    for leg in ("encode", "prefill", "decode"):
        step = steps[leg]
        assert 0 <= step["began"] <= step["sent"] <= step["ended"] <= found["seconds"] + 0.01
        assert (step["outcome"], step["status"]) == ("", 200)
        assert step["request_bytes"] > 0
        chosen = [one for one in step["why"] if one["chosen"]]
        assert [one["endpoint"] for one in chosen] == [step["endpoint"]]
    assert len(steps["decode"]["why"]) == 2, "there are two decode instances"
    assert steps["prefill"]["ended"] <= steps["decode"]["ended"]
    assert "Say" not in json.dumps(found)


def test_a_failed_try_is_a_step_too(mended: Engines) -> None:
    with Gateway(mended, ["prefill-0", "prefill-1", "decode-0"], label="dashboard-retry") as gateway:
        mended["prefill-0"].kill()
        for _ in range(6):
            assert ask_one(gateway.url, text_chat(max_tokens=2)).status == 200
        row = finished(gateway, lambda one: bool(one["tries"]))
        steps = whole(gateway, row)["steps"]
        assert {step["endpoint"] for step in steps if step["outcome"]} == {"prefill-0/0"}
        assert row["outcome"] == "answered"


def test_failures_are_kept_also_when_nobody_follows(mended: Engines) -> None:
    config = {"dashboard_config": {"requests_per_second": 0}, "exception_config": {"max_retry": 0}}
    with Gateway(mended, ["prefill-0", "decode-0"], label="dashboard-unfollowed", config=config) as gateway:
        assert ask_one(gateway.url, text_chat(max_tokens=2)).status == 200
        mended["prefill-0"].kill()
        assert ask_one(gateway.url, text_chat(max_tokens=2)).status >= 500
        row = finished(gateway, lambda one: one["outcome"] == "failed")
        assert not row["followed"]
        assert whole(gateway, row)["steps"] == []
        assert [one["outcome"] for one in told(gateway, "requests")["requests"]] == ["failed"]


def test_markup_in_what_clients_choose_is_only_text(shown: Gateway) -> None:
    body = {**text_chat(max_tokens=2), "model": MARKUP}
    assert ask_one(shown.url, body, **{"X-Request-Id": MARKUP}).status == 404
    row = finished(shown, lambda one: one["model"] == MARKUP)
    assert (row["request_id"], row["outcome"]) == (MARKUP, "refused")


def test_no_more_than_fits_is_kept(shown: Gateway) -> None:
    long = "m" * 5000
    body = {**text_chat(max_tokens=2), "model": long}
    assert ask_one(shown.url, body, **{"X-Request-Id": "long"}).status == 404
    row = finished(shown, lambda one: one["request_id"] == "long")
    assert row["model"] == "m" * 256
    wait_until(lambda: told(shown, "requests")["newest"] >= row["ended"], "both workers have told")
    newest = told(shown, "requests")["newest"]
    assert told(shown, f"requests?after={newest}")["requests"] == []


@pytest.mark.parametrize("path", [
    "/dashboard/page/", "/dashboard/page/../board.py", "/dashboard/page/..%2fboard.py",
    "/dashboard/page/%2e%2e/board.py", "/dashboard/page//etc/passwd", "/dashboard/page/main.js%00",
    "/dashboard/page/none.js", "/dashboard/board.py", "/dashboard/requests/..%2f..%2finstances",
    "/dashboard/requests/0-00000000-1", "/dashboard/requests/%3Cb%3E",
])  # fmt: skip
def test_tricks_with_paths_find_nothing(shown: Gateway, keyed: Gateway, path: str) -> None:
    assert raw(shown, path) == 404
    assert raw(keyed, path, RELAYED) == 401


def test_the_page_is_for_all_and_the_data_for_few(keyed: Gateway, shown: Gateway, keys: Keys) -> None:
    inference, read = keys.secrets[:2]
    for path in PAGES:
        assert raw(keyed, path, RELAYED) == 200
        assert raw(shown, path, "Sec-Fetch-Site: cross-site") == 200
        assert raw(keyed, path, RELAYED, method="POST") == 401
    for path in DATA:
        found = 404 if path.endswith("-1") else 200
        assert raw(keyed, path, RELAYED) == 401
        assert raw(keyed, path, RELAYED, f"Authorization: Bearer {inference}") == 403
        assert raw(keyed, path, RELAYED, f"Authorization: Bearer {read}", f"x-api-key: {read}") == found
        assert raw(keyed, path + "?key=" + read, RELAYED) == 401, "never by the address"
        assert raw(keyed, path, RELAYED, f"Cookie: pymotor-key={read}") == 401
        for line in ("Origin: https://elsewhere.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"):
            assert raw(shown, path, line) == 403
        assert raw(shown, path, "Sec-Fetch-Site: same-origin") == found
        assert raw(shown, path, method="POST") == 405


def test_the_page_may_load_nothing_from_elsewhere(shown: Gateway) -> None:
    reply = plain_http.get(f"{shown.management_url}/dashboard", timeout=60).raise_for_status()
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "://" not in reply.text
    assert "style=" not in reply.text


def test_nobody_who_turns_it_off_has_it(engines: Engines) -> None:
    config = {"dashboard_config": {"enable": False}}
    with Gateway(engines, ["union-0"], config=config, label="dashboard-none") as gateway:
        assert [raw(gateway, path) for path in (*PAGES, *DATA)] == [404] * (len(PAGES) + len(DATA))
