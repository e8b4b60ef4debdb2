"""Requests that belong together go together before engines that tell nothing of their caches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from answers import CHAT, COMPLETIONS, ask_one
from fleet_under_test import Engines, Gateway, Role
from images import text_chat
from processes import wait_until

from pymotor.operate.explain_command import lines_of

SESSIONS = [f"session {number}" for number in range(12)]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two pairs, and nothing that tells of caches."""
    roles = {Role.PREFILL: 3, Role.DECODE: 3}
    with Engines(tmp_path_factory.mktemp("keyed"), roles, plain=False) as running:
        yield running


def gateway_of(engines: Engines, scheduler_type: str, **more: Any) -> Gateway:
    """Two workers that know nothing of each other's requests."""
    scheduler = {"scheduler_type": scheduler_type, **more}
    return Gateway(engines, config={"scheduler_config": scheduler}, workers=2, label=scheduler_type)


def way_of(gateway: Gateway, text: str, **headers: str) -> dict[str, str]:
    """Which engine had which leg."""
    answer = ask_one(gateway.url, text_chat(text, max_tokens=2), **headers)
    assert answer.status == 200, answer.error
    return dict(answer.legs)


def test_a_session_stays_where_it_is(engines: Engines) -> None:
    with gateway_of(engines, "session_affinity") as gateway:
        began = {session: way_of(gateway, "hello", **{"X-Session-ID": session}) for session in SESSIONS}
        assert len({way["prefill"] for way in began.values()}) == 3
        for turn in range(2):
            for session in SESSIONS:
                assert way_of(gateway, f"turn {turn} " * 50, **{"X-Session-ID": session}) == began[session]
        gone = began[SESSIONS[0]]["prefill"]
        gateway.use(*(name for name in engines.fleet if name != gone))
        for session, way in began.items():
            now = way_of(gateway, "and now?", **{"X-Session-ID": session})
            assert now["decode"] == way["decode"]
            assert now["prefill"] != gone
            if way["prefill"] != gone:
                assert now == way, "only what has to move moves"


def test_the_header_of_a_session_can_be_another(engines: Engines) -> None:
    with gateway_of(engines, "session_affinity", session_header="X-Chat") as gateway:
        ways = [way_of(gateway, f"hello {number}", **{"X-Chat": "one"}) for number in range(6)]
        assert ways == ways[:1] * 6
        spread = [way_of(gateway, f"hello {number}", **{"X-Session-ID": "one"})["prefill"] for number in range(6)]
        assert len(set(spread)) == 3, "without it load decides"


def test_why_a_session_went_where_it_went(engines: Engines) -> None:
    with gateway_of(engines, "session_affinity") as gateway:
        url = f"{gateway.management_url}/explain"

        def explained(name: str) -> dict[str, Any]:
            found = plain_http.get(url, params={"request_id": name}).raise_for_status().json()
            assert plain_http.get(url).raise_for_status().json()["request_id"] == name, "and it is the newest"
            return dict(found)

        way = way_of(gateway, "hello", **{"X-Session-ID": "one", "X-Request-Id": "named"})
        found = explained("named")
        assert found["found"] == "session"
        for leg in found["legs"]:
            assert (leg["role"], leg["by"]) in (("prefill", "key"), ("decode", "key"))
            assert leg["note"] == "the first of the key's own order whose load is within the bound"
            assert leg["highest_load"] > 0
            assert sorted(one["place"] for one in leg["endpoints"]) == [1, 2, 3]
            (first,) = [one for one in leg["endpoints"] if one["place"] == 1]
            assert first["chosen"]
            assert first["endpoint"] == f"{way[leg['role']]}/0"
        way = way_of(gateway, "hello", **{"X-Request-Id": "nameless"})
        found = explained("nameless")
        words = "it names no session (session_header): load alone decides where it goes"
        assert (found["found"], found["note"]) == ("no_session", words)
        assert [leg["by"] for leg in found["legs"]] == ["load", "load"]
        chosen = [one["endpoint"] for leg in found["legs"] for one in leg["endpoints"] if one["chosen"]]
        assert chosen == [f"{way['prefill']}/0", f"{way['decode']}/0"]
        body = {"model": "tiny", "prompt": ["Once upon a time", "There was"], "max_tokens": 2}
        assert ask_one(gateway.url, body, COMPLETIONS, **{"X-Request-Id": "two"}).status == 200
        assert explained("two")["found"] == "several"


def test_prompts_that_begin_alike_go_to_one_prefill(engines: Engines) -> None:
    with gateway_of(engines, "prefix_hash") as gateway:
        ways = [way_of(gateway, "a long common beginning " * 200 + str(number)) for number in range(6)]
        assert len({way["prefill"] for way in ways}) == 1
        assert len({way["decode"] for way in ways}) == 3, "decode goes by load"
        others = {way_of(gateway, f"{number} is how this one begins " * 60)["prefill"] for number in range(12)}
        assert len(others) == 3


def test_why_several_prompts_have_no_key_together(engines: Engines) -> None:
    with gateway_of(engines, "prefix_hash") as gateway:
        body = {"model": "tiny", "prompt": ["Once upon a time", "There was", "And then"], "max_tokens": 2}
        answer = ask_one(gateway.url, body, COMPLETIONS, **{"X-Request-Id": "three"})
        assert answer.status == 200, answer.error
        url = f"{gateway.management_url}/explain"
        found = plain_http.get(url, params={"request_id": "three"}).raise_for_status().json()
        assert found["legs"] == []
        assert found["note"] == ("3 prompts in one request: no endpoint was chosen for all; one by one they go by load")
        for prompt, by in ((body["prompt"], ["load", "load"]), ("Once", ["key", "load"])):
            asked = {"path": COMPLETIONS, "body": body | {"prompt": prompt}}
            would = plain_http.post(url, json=asked).raise_for_status().json()
            assert [leg["by"] for leg in would["legs"]] == by


def test_the_newest_request_is_the_newest_of_all_workers(engines: Engines) -> None:
    with gateway_of(engines, "prefix_hash") as gateway:
        for number in range(16):
            way_of(gateway, "hello", **{"X-Request-Id": f"request {number}"})
            found = plain_http.get(f"{gateway.management_url}/explain").raise_for_status().json()
            assert found["request_id"] == f"request {number}"


def test_each_worker_says_where_it_would_send_a_text(engines: Engines) -> None:
    with gateway_of(engines, "kv_cache_affinity") as gateway:

        def would(text: str) -> dict[str, Any]:
            asked = {"path": CHAT, "body": text_chat(text, max_tokens=2)}
            found = plain_http.post(f"{gateway.management_url}/explain", json=asked).raise_for_status().json()
            assert found["note"] == "each worker compares with the texts that it sent itself; " + (
                f"the figures are worker {found['note'][-3]}'s"
            )
            return dict(found)

        differ = 0
        for number in range(12):
            text = f"text {number} " * 100
            where = way_of(gateway, text)["prefill"]
            found = would(text)
            (chosen,) = [one for one in found["legs"][0]["endpoints"] if one["chosen"]]
            assert chosen["endpoint"] == f"{where}/0"
            assert chosen["match_expected"] > 0, "the figures are those of the worker that sent it"
            if found["workers"]:
                differ += 1
                assert sorted(number for one in found["workers"] for number in one["workers"]) == [0, 1]
                (knowing,) = [one for one in found["workers"] if int(found["note"][-3]) in one["workers"]]
                assert knowing["chosen"][0] == f"{where}/0"
                assert f"\nworker 1: {found['workers'][1]['chosen'][0]}" in "\n".join(lines_of(found))
        assert differ, "one that does not know a text takes its turn"


def test_texts_that_begin_alike_where_nobody_tells_of_caches(engines: Engines) -> None:
    scheduler = {"scheduler_type": "kv_cache_affinity"}
    with Gateway(engines, config={"scheduler_config": scheduler}, label="texts") as gateway:
        began = [way_of(gateway, f"chat {number} " * 100)["prefill"] for number in range(4)]
        again = [way_of(gateway, f"chat {number} " * 100)["prefill"] for number in range(4)]
        assert again == began
        assert len(set(began)) > 1
        assert gateway.count("pymotor_kv_affinity_questions_total", outcome="text") == 8


def test_what_an_engine_was_sent_before_it_was_gone_counts_no_more(engines: Engines) -> None:
    """Where texts are compared: the engine that serves there afterwards may be another."""
    config = {"scheduler_config": {"scheduler_type": "kv_cache_affinity"}}
    with Gateway(engines, config=config, label="by-texts") as gateway:
        text = "a long common beginning " * 200
        began = way_of(gateway, text)["prefill"]

        def expected() -> dict[str, int]:
            asked = {"path": CHAT, "body": text_chat(text, max_tokens=2)}
            found = plain_http.post(f"{gateway.management_url}/explain", json=asked).raise_for_status().json()
            return {one["endpoint"]: one["match_expected"] for one in found["legs"][0]["endpoints"]}

        assert [endpoint for endpoint, tokens in expected().items() if tokens] == [f"{began}/0"]
        gateway.use(*(name for name in engines.fleet if name != began))
        wait_until(lambda: f"{began}/0" not in expected(), "the worker knows that it is gone")
        gateway.use(*engines.fleet)
        wait_until(lambda: f"{began}/0" in expected(), "the worker knows that it is there again")
        assert not any(expected().values())
