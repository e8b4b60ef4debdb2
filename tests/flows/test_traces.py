"""Each request that is traced becomes one whole trace, whichever way it goes and however it ends."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import plain_http
import pytest
from answers import CHAT, COMPLETIONS
from fleet_under_test import MODEL, Engines, Gateway, Role
from images import text_chat, vision_chat
from processes import wait_until

from otlp_collector import Collector, Span

MakeGateway = Callable[..., Gateway]
OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
QUICK = {"retry_delay": 0.01}
BY_CHANCE = ("receive", "placement")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running
        running.behave()


@pytest.fixture(scope="module")
def traced(engines: Engines, collector: Collector) -> Iterator[Gateway]:
    """Two workers before two encode, two prefill and two decode engines, which trace all requests."""
    names = [name for name in engines.fleet if not name.startswith("union")]
    config = {"tracer_config": collector.config()}
    with Gateway(engines, names, workers=2, config=config, environment=OFTEN, label="traced") as running:
        yield running


class Asked:
    """A request with an id of its own, and what came of it."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], path: str = CHAT, **headers: str) -> None:
        self.id = uuid.uuid4().hex
        reply = plain_http.post(gateway.url + path, json=body, headers={"X-Request-Id": self.id, **headers}, timeout=60)
        self.status = reply.status_code
        self.text = reply.text

    def trace(self, collector: Collector) -> list[Span]:
        """Its trace, with one root that all others are children of."""
        spans = collector.trace_of(self.id, wait_until)
        root = root_of(spans)
        assert all(span["parent"] == root["id"] for span in spans if span is not root)
        assert len({span["id"] for span in spans}) == len(spans)
        assert all(span["end"] >= span["start"] > 0 for span in spans)
        assert root["attributes"]["http.response.status_code"] == self.status
        return spans


def root_of(spans: list[Span]) -> Span:
    (root,) = [span for span in spans if span["kind"] == "server"]
    return root


def names(spans: list[Span]) -> list[str]:
    """Of the children, sorted, without those that a machine of leisure would not make."""
    return sorted(span["name"] for span in spans if span["kind"] != "server" and span["name"] not in BY_CHANCE)


def calls(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span["kind"] == "client"]


def told(engines: Engines, trace: str) -> set[str]:
    """Span ids that the engines were told as their parents in this trace."""
    requests = [
        request
        for engine in engines
        if engine.alive
        for request in plain_http.get(f"{engine.url}/sim/traces", timeout=60).raise_for_status().json()["requests"]
    ]
    return {parts[2] for parts in (one["traceparent"].split("-") for one in requests) if parts[1] == trace}


def assert_engines_know(engines: Engines, spans: list[Span]) -> None:
    """Every leg that reached an engine is known there by its span, and no other."""
    sent = {span["id"] for span in calls(spans) if span["attributes"].get("error.type") != "connect"}
    assert sent
    assert told(engines, spans[0]["trace"]) == sent


def test_media_through_all_stages(traced: Gateway, engines: Engines, collector: Collector) -> None:
    asked = Asked(traced, vision_chat(8101, 8102, stream=True, max_tokens=6))
    spans = asked.trace(collector)
    assert set(names(spans)) >= {"queue", "encode", "prefill", "handoff", "decode"}
    assert names(spans).count("encode") == 2
    assert_engines_know(engines, spans)
    root = root_of(spans)
    assert root["name"] == f"POST {CHAT}"
    assert not root["parent"]
    assert not root["failed"]
    attributes = root["attributes"]
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == MODEL
    assert attributes["gen_ai.request.max_tokens"] == 6
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["pymotor.answer_events"] >= 6
    assert attributes["pymotor.media_items"] == 2
    assert root["resource"]["service.name"] == "pymotor-coordinator"
    assert [event["name"] for event in root["events"]] == ["first_content"]
    decode = next(span for span in spans if span["name"] == "decode")
    assert decode["attributes"]["pymotor.instance"].startswith("decode-")
    assert decode["attributes"]["server.port"] in {engines["decode-0"].port, engines["decode-1"].port}
    assert [event["name"] for event in decode["events"]] == ["first_content"]
    assert {span["attributes"]["pymotor.media_item"] for span in spans if span["name"] == "encode"} == {"0", "1"}
    handoff = next(span for span in spans if span["name"] == "handoff")
    prefill = next(span for span in spans if span["name"] == "prefill")
    assert (handoff["start"], handoff["end"]) == (prefill["end"], decode["events"][0]["at"])


def test_a_whole_answer_tells_what_it_cost(traced: Gateway, collector: Collector) -> None:
    attributes = root_of(Asked(traced, text_chat(max_tokens=5)).trace(collector))["attributes"]
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]


def test_a_stream_tells_how_much_it_was(traced: Gateway, collector: Collector) -> None:
    attributes = root_of(Asked(traced, text_chat(max_tokens=5, stream=True)).trace(collector))["attributes"]
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0


def test_nothing_of_the_clients_words_is_in_it(traced: Gateway, collector: Collector) -> None:
    secret = "nobody-may-export-this"
    asked = Asked(
        traced, vision_chat(8103, text=secret, user=secret), f"{CHAT}?key={secret}", Authorization=f"Bearer {secret}"
    )
    assert secret not in str(asked.trace(collector))


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(traced: Gateway, engines: Engines, collector: Collector, stream: bool) -> None:
    spans = Asked(traced, text_chat(n=3, max_tokens=4, stream=stream)).trace(collector)
    assert [names(spans).count(leg) for leg in ("prefill", "decode", "handoff")] == [3, 3, 3]
    assert_engines_know(engines, spans)


@pytest.mark.parametrize(
    ("connector", "roles"),
    [
        ("NixlConnector", {Role.UNION: 1}),
        ("MooncakeLayerwiseConnector", {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1}),
        ("MooncakeConnector", {Role.PREFILL: 1, Role.DECODE: 1}),
        ("ExampleConnector", {Role.PREFILL: 1, Role.DECODE: 1}),
    ],
)
def test_other_ways(
    connector: str,
    roles: dict[Role, int],
    tmp_path_factory: pytest.TempPathFactory,
    make_gateway: MakeGateway,
    collector: Collector,
) -> None:
    with Engines(tmp_path_factory.mktemp("ways"), roles, kv_connector=connector, plain=False) as engines:
        gateway = make_gateway(engines, config={"tracer_config": collector.config()}, environment=OFTEN)
        body = vision_chat(8104, stream=True) if Role.ENCODE in roles else text_chat(stream=True)
        spans = Asked(gateway, body).trace(collector)
        assert {span["name"] for span in calls(spans)} == {role.value for role in roles}
        if connector in ("NixlConnector", "ExampleConnector"):
            # Elsewhere decode's first content may be there before prefill's answer.
            assert ("handoff" in names(spans)) == (Role.PREFILL in roles)
        assert_engines_know(engines, spans)


@pytest.mark.parametrize(
    ("path", "operation"),
    [(COMPLETIONS, "text_completion"), ("/v1/messages", "chat"), ("/v1/responses", "chat"), ("/tokenize", None)],
)
def test_other_paths(traced: Gateway, collector: Collector, path: str, operation: str | None) -> None:
    said: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    if path in (COMPLETIONS, "/tokenize"):
        said = {"prompt": "Hello"}
    elif path == "/v1/responses":
        said = {"input": "Hello", "max_output_tokens": 16}
    asked = Asked(traced, {"model": MODEL, **said}, path)
    assert asked.status == 200, asked.text
    root = root_of(asked.trace(collector))
    assert root["name"] == f"POST {path}"
    assert root["attributes"].get("gen_ai.operation.name") == operation


def test_a_stored_response(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    make_gateway: MakeGateway,
    collector: Collector,
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
    with Engines(tmp_path_factory.mktemp("kept"), {Role.UNION: 1}, plain=False) as engines:
        gateway = make_gateway(engines, config={"tracer_config": collector.config()}, environment=OFTEN)
        made = Asked(gateway, {"model": MODEL, "input": "Hello", "max_output_tokens": 16}, "/v1/responses")
        response_id = json.loads(made.text)["id"]
        asked = uuid.uuid4().hex
        plain_http.get(f"{gateway.url}/v1/responses/{response_id}", headers={"X-Request-Id": asked}, timeout=60)
        spans = collector.trace_of(asked, wait_until)
        assert root_of(spans)["name"] == "GET /v1/responses/{id}"
        (leg,) = calls(spans)
        assert (leg["name"], leg["attributes"]["http.request.method"]) == ("stored", "GET")
        assert leg["attributes"]["http.response.status_code"] == 200
        assert_engines_know(engines, spans)


# -- failures


@pytest.fixture
def breakable(mended: Engines, make_gateway: MakeGateway, collector: Collector) -> Gateway:
    config = {"tracer_config": collector.config(), "exception_config": QUICK}
    return make_gateway(mended, "encode-0", "encode-1", "prefill-0", "prefill-1", "decode-0", "decode-1",
                        config=config, environment=OFTEN)  # fmt: skip


def test_a_request_that_is_not_one(traced: Gateway, collector: Collector) -> None:
    asked = Asked(traced, {"model": MODEL, "messages": 7})
    spans = asked.trace(collector)
    assert (asked.status, names(spans)) == (400, [])
    assert not root_of(spans)["failed"]
    assert root_of(spans)["attributes"]["error.type"]


def test_further_tries_are_further_spans(breakable: Gateway, mended: Engines, collector: Collector) -> None:
    for name in ("prefill-0", "prefill-1"):
        mended[name].fail("error:code=503,count=1")
    asked = Asked(breakable, text_chat(stream=True, max_tokens=4))
    assert asked.status == 200, asked.text
    spans = asked.trace(collector)
    prefills = [span for span in spans if span["name"] == "prefill"]
    assert [span["failed"] for span in prefills] == [*[True] * (len(prefills) - 1), False]
    assert len(prefills) >= 2
    assert prefills[-1]["attributes"]["http.request.resend_count"] == len(prefills) - 1
    assert prefills[0]["attributes"]["error.type"] == "busy"
    assert "pause" in names(spans)
    assert_engines_know(mended, spans)


def test_decode_dies_in_mid_stream(breakable: Gateway, mended: Engines, collector: Collector) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=3,count=1")
    asked = Asked(breakable, text_chat(stream=True, max_tokens=12))
    assert asked.status == 200
    spans = asked.trace(collector)
    decodes = [span for span in spans if span["name"] == "decode"]
    assert len(decodes) >= 2
    assert decodes[0]["failed"]
    assert not decodes[-1]["failed"]
    assert "carry_on" in [event["name"] for event in root_of(spans)["events"]]
    assert_engines_know(mended, spans)


def test_an_encoder_fails(breakable: Gateway, mended: Engines, collector: Collector) -> None:
    for name in ("encode-0", "encode-1"):
        mended[name].fail("error:code=500,count=1")
    spans = Asked(breakable, vision_chat(8105)).trace(collector)
    assert next(span["failed"] for span in spans if span["name"] == "encode")
    assert_engines_know(mended, spans)


def test_nobody_can_be_reached(breakable: Gateway, mended: Engines, collector: Collector) -> None:
    for name in ("prefill-0", "prefill-1"):
        mended[name].kill()
    asked = Asked(breakable, text_chat())
    spans = asked.trace(collector)
    assert asked.status >= 500
    assert root_of(spans)["failed"]
    assert {span["attributes"]["error.type"] for span in calls(spans)} <= {"connect", "reset"}


def test_a_client_that_goes_away(breakable: Gateway, mended: Engines, collector: Collector) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail("hang")
    asked = uuid.uuid4().hex
    with pytest.raises(plain_http.httpx.TimeoutException):
        plain_http.post(breakable.url + CHAT, json=text_chat(stream=True), headers={"X-Request-Id": asked}, timeout=10)
    spans = collector.trace_of(asked, wait_until)
    assert root_of(spans)["attributes"]["http.response.status_code"] == 499
    decode = next(span for span in spans if span["name"] == "decode")
    assert decode["attributes"]["pymotor.outcome"] == "cancelled"
    assert not decode["failed"]


def test_the_line_is_full(mended: Engines, make_gateway: MakeGateway, collector: Collector) -> None:
    config = {
        "tracer_config": collector.config(),
        "request_limit": {"max_running": {"decode": 1}, "max_queued": 0},
    }
    gateway = make_gateway(mended, "prefill-0", "decode-0", config=config, environment=OFTEN)
    mended["decode-0"].fail("hang")
    first = uuid.uuid4().hex

    def ask() -> None:
        with contextlib.suppress(plain_http.httpx.TimeoutException):
            plain_http.post(gateway.url + CHAT, json=text_chat(), headers={"X-Request-Id": first}, timeout=30)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: any(load[1] for load in gateway.loads().values()), "the first runs")
    refused = Asked(gateway, text_chat())
    spans = refused.trace(collector)
    assert (refused.status, names(spans)) == (429, ["queue"])
    assert root_of(spans)["attributes"]["error.type"] == "queue_full"
    mended.restore()
    asking.join()
    collector.trace_of(first, wait_until)


# -- the trace of the caller


CALLER = "0af7651916cd43dd8448eb211c80319c"


def caller(trace: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace}-b7ad6b7169203331-{flags}", "tracestate": "congo=t61rcWkgMzE,rojo=1"}


def test_the_callers_trace_goes_on(traced: Gateway, engines: Engines, collector: Collector) -> None:
    trace = uuid.uuid4().hex
    spans = Asked(traced, text_chat(), **caller(trace)).trace(collector)
    assert {span["trace"] for span in spans} == {trace}
    assert root_of(spans)["parent"] == "b7ad6b7169203331"
    assert {span["state"] for span in spans} == {"congo=t61rcWkgMzE,rojo=1"}
    assert_engines_know(engines, spans)


def test_what_is_not_traced_is_told_so(engines: Engines, make_gateway: MakeGateway, collector: Collector) -> None:
    config = {"tracer_config": collector.config(root_sampling_rate=0, remote_parent_not_sampled=0)}
    gateway = make_gateway(engines, "union-0", config=config, environment=OFTEN)
    trace = uuid.uuid4().hex
    assert Asked(gateway, text_chat(), **caller(trace, "00")).status == 200
    own = Asked(gateway, text_chat())
    sampled = Asked(gateway, text_chat(), **caller(uuid.uuid4().hex))
    sampled.trace(collector)
    assert not any(span["trace"] == trace or span["attributes"].get("pymotor.request_id") == own.id
                   for span in collector.spans())  # fmt: skip
    requests = plain_http.get(f"{engines['union-0'].url}/sim/traces", timeout=60).json()["requests"]
    (passed_on,) = [one for one in requests if trace in one["traceparent"]]
    assert passed_on["traceparent"] == f"00-{trace}-b7ad6b7169203331-00"
    assert passed_on["tracestate"] == "congo=t61rcWkgMzE,rojo=1"
    assert [one["traceparent"][-2:] for one in requests[-3:]] == ["00", "00", "01"]
