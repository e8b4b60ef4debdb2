"""The views of `/metrics`: the engines' figures as one service, by role, instance, node, data parallel rank."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable

import plain_http
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway
from images import text_chat, vision_chat
from processes import wait_until
from prometheus_client.parser import text_string_to_metric_families

from prometheus_text import problems_of

MakeGateway = Callable[..., Gateway]
VIEWS = ("full", "role", "instance", "dp", "node")
FRESH = {"prometheus_metrics_config": {"reuse_time": 0.001}}
"""Each scrape asks the engines."""
TOKENS = "vllm:generation_tokens_total"


def view(gateway: Gateway, kind: str) -> str:
    """The text of a view, which is right."""
    reply = plain_http.get(f"{gateway.observability_url}/metrics?type={kind}", timeout=60).raise_for_status()
    assert not problems_of(reply.text)
    return reply.text


def samples(text: str, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """The samples of this name, added up by these labels."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels.get(label, "") for label in labels)] += sample.value
    return dict(found)


@pytest.fixture
def asked(engines: Engines, make_gateway: MakeGateway) -> Gateway:
    """A gateway that has answered some requests through E2P2D and U."""
    gateway = make_gateway(engines, workers=2, config=FRESH)
    for number in range(4):
        assert ask_one(gateway.url, vision_chat(600 + number, stream=number % 2 == 0)).status == 200
        assert ask_one(gateway.url, text_chat("A long story. " * 400, max_tokens=4)).status == 200
        assert ask_one(gateway.url, text_chat(f"Short {number}", max_tokens=4)).status == 200
    gateway.wait_until_idle()
    return gateway


def test_each_view_adds_the_engines_up_at_its_own_size(asked: Gateway, engines: Engines) -> None:
    own = {name: engines[name].metric(TOKENS) for name in engines.fleet}
    assert own["union-0"] > 0, "union engines are in the views too"
    by_role: dict[tuple[str, ...], float] = defaultdict(float)
    for name, tokens in own.items():
        by_role[name.split("-")[0],] += tokens
    texts = {kind: view(asked, kind) for kind in VIEWS}
    assert samples(texts["full"], TOKENS) == {(): sum(own.values())}
    assert samples(texts["role"], TOKENS, "role") == by_role
    by_instance = {(name, name.split("-")[0]): tokens for name, tokens in own.items()}
    assert samples(texts["instance"], TOKENS, "instance_id", "role") == by_instance
    by_node = {("127.0.0.1", *role): tokens for role, tokens in by_role.items()}
    assert samples(texts["node"], TOKENS, "pod_ip", "role") == by_node
    by_rank = {("0", "0", "127.0.0.1", *place): tokens for place, tokens in by_instance.items()}
    labels = ("engine", "dp_rank", "pod_ip", "instance_id", "role")
    assert samples(texts["dp"], TOKENS, *labels) == by_rank
    assert samples(texts["full"], TOKENS, "engine") == {("",): sum(own.values())}
    for kind in VIEWS:
        assert set(samples(texts[kind], "pymotor_engine_up", "instance").values()) == {1.0}


def test_times_of_the_service_are_those_of_engines_that_answer_clients(asked: Gateway, engines: Engines) -> None:
    name = "vllm:time_to_first_token_seconds_count"
    own = {engine: engines[engine].metric(name) for engine in engines.fleet}
    assert own["prefill-0"] + own["prefill-1"] > 0
    answering = sum(count for engine, count in own.items() if engine.startswith(("decode", "union")))
    assert samples(view(asked, "full"), name) == {(): answering}
    assert sum(samples(view(asked, "role"), name, "role").values()) == sum(own.values())


def test_only_the_service_as_a_whole_has_the_gateways_own_figures(asked: Gateway) -> None:
    plain = asked.metrics()
    assert not problems_of(plain)
    assert "vllm:" not in plain, "who asks for no view gets what the gateway counts, and no engine is asked"
    own = samples(plain, "pymotor_requests_total", "path", "status")
    assert own
    assert samples(view(asked, "full"), "pymotor_requests_total", "path", "status") == own
    for kind in VIEWS[1:]:
        assert not samples(view(asked, kind), "pymotor_requests_total")


def test_an_unknown_view_is_refused(asked: Gateway) -> None:
    reply = plain_http.get(f"{asked.observability_url}/metrics?type=galaxy", timeout=60)
    assert reply.status_code == 400
    assert "full, instance, role, dp, node" in reply.text


def test_a_silent_engine_is_named_and_blanks_nothing(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, config=FRESH)
    for _ in range(2):
        assert ask_one(gateway.url, text_chat(max_tokens=8)).status == 200
    before = samples(view(gateway, "instance"), TOKENS, "instance_id")
    total = samples(view(gateway, "full"), TOKENS)
    process = mended["decode-1"].process
    assert process is not None
    stopped = process.pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        text = view(gateway, "instance")
        up = samples(text, "pymotor_engine_up", "instance")
        assert [name for (name,), value in up.items() if not value] == ["decode-1"]
        assert samples(text, TOKENS, "instance_id") == before, "what it had counted stays"
        running = samples(text, "vllm:num_requests_running", "instance_id")
        assert set(running) == set(before) - {("decode-1",)}, "nobody knows its gauges"
        assert samples(view(gateway, "full"), TOKENS) == total
    finally:
        os.kill(stopped, signal.SIGCONT)

    def all_up() -> bool:
        return set(samples(view(gateway, "instance"), "pymotor_engine_up", "instance").values()) == {1.0}

    wait_until(all_up, "it is heard again")


def test_counters_go_on_over_restarts_and_departures(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, config=FRESH)
    for _ in range(4):
        assert ask_one(gateway.url, text_chat(max_tokens=8)).status == 200
    gateway.wait_until_idle()
    before = samples(view(gateway, "role"), TOKENS, "role")
    mended["decode-0"].kill()
    mended["decode-0"].mend()
    assert mended["decode-0"].metric(TOKENS) == 0
    assert samples(view(gateway, "role"), TOKENS, "role") == before
    gateway.use("encode-0", "prefill-0", "decode-0")
    wait_until(lambda: len(samples(view(gateway, "instance"), TOKENS, "instance_id")) == 3, "three are left")
    assert samples(view(gateway, "role"), TOKENS, "role") == before
    assert samples(view(gateway, "full"), TOKENS) == {(): sum(before.values())}


def test_engines_are_not_asked_at_every_scrape(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, config={"prometheus_metrics_config": {"reuse_time": 3600}})
    first = samples(view(gateway, "full"), TOKENS)
    assert ask_one(gateway.url, text_chat(max_tokens=8)).status == 200
    assert samples(view(gateway, "full"), TOKENS) == first
    assert samples(view(gateway, "role"), TOKENS) == first, "all views are of one moment"
