"""Chats go on where they began: Coordinator, KV Conductor and simulated engines as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import plain_http
import pytest
from answers import COMPLETIONS, ask_one
from conductor_under_test import TOKEN, Asker, ConductorUnderTest
from fleet_under_test import Engines, Gateway, Role
from processes import wait_until

from free_ports import free_port
from prompt_models import template_model
from pymotor.control_plane import TOKEN_VARIABLE

EVENTS = (
    "--kv-events-config",
    json.dumps(
        {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": "tcp://*:0",
            "replay_endpoint": "tcp://*:0",
        }
    ),
    "--enable-prompt-tokens-details",
)
BLOCK = 16
"""Tokens."""
FLEETS = {"two unions": {Role.UNION: 2}, "two pairs": {Role.PREFILL: 2, Role.DECODE: 2}}


class Affine:
    """A Coordinator before engines that tell a conductor what they cache."""

    def __init__(self, engines: Engines, conductor: ConductorUnderTest, gateway: Gateway) -> None:
        self.engines = engines
        self.conductor = conductor
        self.gateway = gateway
        self.chats = 0
        self.computed: tuple[str, list[int]] | None = None
        """Who computed what in the last turn."""

    @property
    def computing(self) -> list[str]:
        """The engines that compute prompts."""
        return [name for name in self.engines.fleet if not name.startswith("decode")]

    def questions(self, outcome: str) -> float:
        """Requests whose prefixes were found out so."""
        return self.gateway.count("pymotor_kv_affinity_questions_total", outcome=outcome)

    def wait_followed(self) -> None:
        """Wait until the conductor follows every engine that computes prompts and the Coordinator knows it."""
        sources = [f"{name}/0 0" for name in self.computing]
        for source in sources:
            self.conductor.wait_standing(source, "live")
        before = self.questions("answered")

        def answered() -> bool:
            self.ask(self.begin())
            return self.questions("answered") > before

        wait_until(answered, "the Coordinator asks the conductor")

    def begin(self) -> list[dict[str, Any]]:
        """A chat unlike all others."""
        self.chats += 1
        return [{"role": "user", "content": f"chat {self.chats} " * 60}]

    def ask(
        self, messages: list[dict[str, Any]], *, headers: dict[str, str] | None = None, stream: bool = False
    ) -> str:
        """Take a turn; returns the engine that computed the prompt."""
        body = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = ask_one(self.gateway.url, body, **(headers or {}))
        assert answer.status == 200, answer.error
        where = next(name for leg, name in answer.legs if leg in ("union", "prefill"))
        self.computed = (where, self.tokens(messages))
        if not where.startswith("prefill"):
            # Nobody has computed with the last token.
            self.computed[1].extend(answer.choices[0].token_ids[:-1])
        messages.append({"role": "assistant", "content": answer.choices[0].text})
        messages.append({"role": "user", "content": "and then? " * 10})
        return where

    def tokens(self, messages: list[dict[str, Any]]) -> list[int]:
        """A chat's tokens, as an engine has them."""
        url = self.engines[self.computing[0]].url
        reply = plain_http.post(f"{url}/tokenize", json={"model": "tiny", "messages": messages})
        found: list[int] = reply.raise_for_status().json()["tokens"]
        return found

    def hits(self, engine: str) -> float:
        """Prompt tokens that it found cached."""
        return self.engines[engine].metric("vllm:prefix_cache_hits_total")

    def wait_settled(self) -> None:
        """Wait until the conductor knows of every block that the last turn filled."""
        if self.computed is None:
            return
        where, tokens = self.computed
        with Asker(self.conductor.port) as asker:

            def settled() -> bool:
                return asker.match(tokens, model="tiny").get(f"{where}/0", 0) == len(tokens) // BLOCK * BLOCK

            wait_until(settled, f"{where} is known to hold what it computed")


@pytest.fixture(scope="module", params=FLEETS)
def affine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Affine]:
    """One worker, so that its own memory could not be told from others'."""
    directory = tmp_path_factory.mktemp("affine")
    with ExitStack() as opened:
        engines = opened.enter_context(Engines(directory, FLEETS[request.param], flags=EVENTS, plain=False))
        port = free_port()
        config = {
            "scheduler_config": {
                "scheduler_type": "kv_cache_affinity",
                "tokenizer_path": template_model(directory),
                "kv_affinity_patience": 5,
            },
            "exception_config": {"retry_delay": 0.01},
        }
        environment = {"PYMOTOR_KV_CONDUCTOR": f"127.0.0.1:{port}", TOKEN_VARIABLE: TOKEN}
        gateway = opened.enter_context(Gateway(engines, config=config, environment=environment))
        conductor = opened.enter_context(ConductorUnderTest(directory, fleet=gateway.fleet_file, port=port))
        found = Affine(engines, conductor, gateway)
        found.wait_followed()
        yield found


def test_a_chat_goes_on_where_it_began(affine: Affine) -> None:
    chats = [affine.begin() for _ in range(6)]
    began = [affine.ask(chat) for chat in chats]
    assert len(set(began)) == 2, "chats that share nothing are spread"
    for _ in range(3):
        assert [affine.ask(chat) for chat in chats] == began


def test_what_was_expected_is_what_was_cached(affine: Affine) -> None:
    """In a quiet fleet every prediction is exact."""
    compared = affine.gateway.count("pymotor_kv_affinity_prediction_error_tokens_count")
    for stream in (False, True):
        chat = affine.begin()
        for _ in range(4):
            affine.wait_settled()
            expected = affine.gateway.count("pymotor_kv_affinity_expected_tokens_total")
            hits = {name: affine.hits(name) for name in affine.computing}
            where = affine.ask(chat, stream=stream)
            found = affine.hits(where) - hits[where]
            assert affine.gateway.count("pymotor_kv_affinity_expected_tokens_total") - expected == found
    count = "pymotor_kv_affinity_prediction_error_tokens_count"
    wait_until(lambda: affine.gateway.count(count) - compared >= 8, "all are compared")
    assert affine.gateway.count("pymotor_kv_affinity_prediction_error_tokens_sum") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_its_engine_refused_is_expected_nowhere(affine: Affine, stream: bool) -> None:
    """It would be for half a minute, by its length."""
    affine.ask(affine.begin())
    prompt = [7 + stream] * 120_000
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "stream": stream}
    reply = plain_http.post(f"{affine.gateway.url}{COMPLETIONS}", json=body)
    assert reply.status_code == 400, reply.text
    with Asker(affine.conductor.port) as asker:
        wait_until(
            lambda: not asker.expected(asker.answer(asker.query(prompt[:2000], model="tiny"))),
            "the conductor knows that it was in vain",
            20,
        )


def printed(affine: Affine, *words: str, given: str = "") -> str:
    """What `pymotor explain` prints."""
    argv = [sys.executable, "-m", "pymotor", "explain", "--management", affine.gateway.management_url, *words]
    done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def explained(affine: Affine, *words: str, given: str = "") -> dict[str, Any]:
    """What it tells programs."""
    found: dict[str, Any] = json.loads(printed(affine, *words, "--json", given=given))
    return found


def test_why_a_request_went_where_it_went(affine: Affine) -> None:
    chat = affine.begin()
    began = affine.ask(chat)
    affine.wait_settled()
    given = json.dumps({"model": "tiny", "messages": chat, "max_tokens": 8})
    before = affine.gateway.loads()
    would = explained(affine, "--body", "-", given=given)
    assert affine.gateway.loads() == before
    where = affine.ask(chat, headers={"X-Request-Id": "that one"})
    assert where == began
    for found in (would, explained(affine, "that one")):
        assert found["found"] == "answered"
        assert found["note"] == ""
        computing = found["legs"][0]
        by_endpoint = {one["endpoint"]: one for one in computing["endpoints"]}
        chosen, other = (
            by_endpoint[f"{began}/0"],
            by_endpoint[next(f"{one}/0" for one in affine.computing if one != began)],
        )
        assert computing["by"] == "affinity"
        assert chosen["chosen"]
        assert not other["chosen"]
        assert chosen["match_expected"] >= chosen["match_any"] >= chosen["match_device"] > 0
        assert chosen["prefill_cost"] == found["prompt_tokens"] - chosen["match_expected"]
        assert chosen["score"] < other["score"]
    assert len(found["legs"]) == (2 if began.startswith("prefill") else 1)


def test_a_request_without_a_name_is_called_by_its_answers_id(affine: Affine) -> None:
    body = {"model": "tiny", "messages": affine.begin(), "max_tokens": 2}
    answer = plain_http.post(f"{affine.gateway.url}/v1/chat/completions", json=body).raise_for_status().json()
    found = explained(affine, answer["id"])
    assert len(found["request_id"]) > 8
    assert found["request_id"] in answer["id"]
    assert explained(affine, found["request_id"]) == explained(affine) == found
    headline = re.escape(f"{found['prompt_tokens']} prompt tokens; matches: answered, unified")
    assert re.match(rf"request {found['request_id']}, \d+ (s|min) ago: {headline}\n", printed(affine))
    would = printed(affine, "--body", "-", given=json.dumps(body))
    assert re.match(r"\d+ prompt tokens; matches: answered, unified\n", would), "it is not sent, so it has no age"


def test_several_prompts_are_explained_in_words(affine: Affine) -> None:
    counted = affine.questions("several")
    body = {"model": "tiny", "prompt": ["Once upon a time", "There was"], "max_tokens": 2}
    answer = ask_one(affine.gateway.url, body, COMPLETIONS, **{"X-Request-Id": "two prompts"})
    assert answer.status == 200, answer.error
    words = "2 prompts in one request: load alone decides where they go, whatever endpoints hold"
    assert explained(affine, "two prompts")["found"] == "several"
    assert f"\n{words}\n" in printed(affine)
    would = explained(affine, "--path", COMPLETIONS, "--body", "-", given=json.dumps(body))
    assert (would["found"], would["note"]) == ("several", words)
    assert {leg["by"] for leg in would["legs"]} == {"load"}
    assert affine.questions("several") == counted + 1, "what is only explained is not counted"


def test_of_fleets_that_cannot_be_mixed_the_one_that_holds_the_prompt_is_taken(affine: Affine) -> None:
    """An old and a new version beside each other: each is a group of its own."""
    gateway = affine.gateway
    try:
        for version in ("0", "1"):
            for name in gateway.names:
                if name.endswith(version):
                    gateway.changes[name] = {"pairing": f"version {version}"}
        gateway.use(*gateway.names)
        for name in affine.computing:
            affine.conductor.wait_standing(f"{name}/0 0", "live")
        for name in (*affine.computing, *reversed(affine.computing)):
            chat = affine.begin()
            body = {"model": "tiny", "messages": chat, "max_tokens": 1}
            plain_http.post(f"{affine.engines[name].url}/v1/chat/completions", json=body).raise_for_status()
            affine.computed = (name, affine.tokens(chat))
            affine.wait_settled()
            assert affine.ask(chat) == name
    finally:
        gateway.changes.clear()
        gateway.use(*gateway.names)
    affine.wait_followed()


@pytest.mark.parametrize("template", [None, "", "{% for"], ids=["no tokenizer", "no template", "a broken template"])
def test_engines_are_asked_for_tokens_that_nothing_here_tells(
    affine: Affine, tmp_path: Path, template: str | None
) -> None:
    scheduler: dict[str, Any] = {"scheduler_type": "kv_cache_affinity", "kv_affinity_patience": 5}
    if template is not None:
        scheduler["tokenizer_path"] = template_model(tmp_path, {"chat_template": template})
    config = {"scheduler_config": scheduler}
    environment = {"PYMOTOR_KV_CONDUCTOR": f"127.0.0.1:{affine.conductor.port}", TOKEN_VARIABLE: TOKEN}
    with Gateway(affine.engines, config=config, environment=environment, label="asking") as gateway:
        other = Affine(affine.engines, affine.conductor, gateway)
        other.chats = 1000
        other.wait_followed()
        chats = [other.begin() for _ in range(4)]
        began = [other.ask(chat) for chat in chats]
        other.wait_settled()
        assert [other.ask(chat) for chat in chats] == began
        assert other.questions("text") == 0


def test_a_conductor_that_hangs_is_no_worse_than_one_that_is_gone(affine: Affine) -> None:
    config = {"scheduler_config": {"scheduler_type": "kv_cache_affinity"}}
    environment = {"PYMOTOR_KV_CONDUCTOR": f"127.0.0.1:{affine.conductor.port}", TOKEN_VARIABLE: TOKEN}
    with Gateway(affine.engines, config=config, environment=environment, label="hanging") as gateway:
        nothing_yet = plain_http.get(f"{gateway.management_url}/explain")
        assert nothing_yet.status_code == 404
        assert "no request has been placed yet" in nothing_yet.text
        other = Affine(affine.engines, affine.conductor, gateway)
        other.chats = 2000
        other.wait_followed()
        os.kill(affine.conductor.process.pid, signal.SIGSTOP)
        try:
            chats = [other.begin() for _ in range(3)]
            began = [other.ask(chat) for chat in chats]
            for _ in range(3):
                assert [other.ask(chat) for chat in chats] == began
            assert other.questions("late") >= 1
        finally:
            os.kill(affine.conductor.process.pid, signal.SIGCONT)
        other.wait_followed()


def test_by_load_alone_explain_says_what_it_needs(affine: Affine) -> None:
    with Gateway(affine.engines, label="by-load") as gateway:
        found = plain_http.get(f"{gateway.management_url}/explain")
        assert found.status_code == 404
        assert "kv_cache_affinity, prefix_hash or session_affinity" in found.text
        assert "--body FILE" in found.text
        body = {"model": "tiny", "prompt": ["Once upon a time", "There was"]}
        would = plain_http.post(f"{gateway.management_url}/explain", json={"path": COMPLETIONS, "body": body}).json()
        assert (would["found"], would["note"]) == ("load", ""), "of one prompt nothing else would be looked at either"


def test_nobody_knows_a_request_of_long_ago(affine: Affine) -> None:
    url = f"{affine.gateway.management_url}/explain"
    assert plain_http.get(url, params={"request_id": "never sent"}).status_code == 404
    assert plain_http.post(url, json={"body": {"messages": 1}}).status_code == 400
    assert plain_http.post(url, json={"path": "/v1/embeddings", "body": {}}).status_code == 404


def test_without_the_conductor_texts_are_compared_and_nothing_fails(affine: Affine) -> None:
    chat = affine.begin()
    began = affine.ask(chat)
    computed = affine.computed
    affine.conductor.process.kill()
    try:
        closed = affine.questions("closed")
        for _ in range(10):
            affine.ask(affine.begin())
        assert affine.questions("closed") >= closed + 9
        chats = [affine.begin() for _ in range(3)]
        places = [affine.ask(chat) for chat in chats]
        for _ in range(3):
            assert [affine.ask(chat) for chat in chats] == places
    finally:
        affine.conductor.start()
    affine.wait_followed()
    # What the engines told before it came back it has had repeated.
    affine.computed = computed
    affine.wait_settled()
    assert [affine.ask(chat) for _ in range(3)] == [began] * 3
