"""`pymotor proxy`: a static fleet, engines that come and go, and who may say so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import plain_http
import pytest
from answers import COMPLETIONS, Asked, ask, ask_all, ask_one, assert_equal_answers
from fleet_under_test import PLAIN, Engine, Engines, Role
from images import text_chat, vision_chat
from processes import wait_until
from proxy_under_test import Proxy, flags_for, refused_usage, running_proxy
from random_requests import some

from free_ports import free_port
from pymotor.engines.host import can_listen

TOKEN = "a-token-of-operators"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One encode, one prefill, two decode engines and the plain one."""
    roles = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 2}
    with Engines(tmp_path_factory.mktemp("stages"), roles) as running:
        yield running


@pytest.fixture(scope="module")
def unions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two engines that prefill and decode, as slow as real ones, and a plain one."""
    flags = ("--sim-speed", "1")
    with Engines(tmp_path_factory.mktemp("unions"), {Role.UNION: 2}, flags=flags) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(stages: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Before all stages, with two workers."""
    flags = flags_for([stages[name] for name in stages.fleet])
    with running_proxy(tmp_path_factory.mktemp("proxy"), *flags, "--workers", "2") as running:
        running.wait_for(encode=1, prefill=1, decode=2)
        yield running


def add(proxy: Proxy, kind: str, *engines: Engine, **headers: str) -> httpx.Response:
    """`/instances/add`."""
    return _change(proxy, "add", kind, *engines, **headers)


def remove(proxy: Proxy, kind: str, *engines: Engine, **headers: str) -> httpx.Response:
    """`/instances/remove`."""
    return _change(proxy, "remove", kind, *engines, **headers)


def _change(proxy: Proxy, verb: str, kind: str, *engines: Engine, **headers: str) -> httpx.Response:
    places = [f"127.0.0.1:{engine.port}" for engine in engines]
    body = {"type": kind, "instances": places[0] if len(places) == 1 else places}
    return proxy.ask("POST", f"/instances/{verb}", body, **headers)


def served_by(engine: Engine) -> float:
    """How many requests an engine has finished."""
    return engine.metric("vllm:request_success_total")


# -- requests


def test_answers_are_those_of_one_plain_engine(proxy: Proxy, stages: Engines) -> None:
    requests = [*some(30), Asked("/v1/chat/completions", vision_chat(41, 42))]
    encoded = served_by(stages["encode-0"])

    async def both() -> None:
        found = await ask_all(proxy.url, requests, 8)
        expected = await ask_all(stages[PLAIN].url, requests, 8)
        assert_equal_answers(requests, found, expected, "the proxy")

    asyncio.run(both())
    assert served_by(stages["encode-0"]) > encoded
    assert stages["decode-0"].metric("vllm:generation_tokens_total") > 0
    proxy.assert_idle()


def test_models_are_what_engines_say(proxy: Proxy) -> None:
    (model,) = proxy.ask("GET", "/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("tiny", 32768)


def test_checks_have_the_originals_fields(proxy: Proxy) -> None:
    assert proxy.counts() == {
        "status": "ok",
        "encode_instances": 1,
        "prefill_instances": 1,
        "decode_instances": 2,
        "pd_instances": 0,
        "request_num": 0,
    }
    clusters = {"encode_cluster": "healthy", "prefill_cluster": "healthy", "decode_cluster": "healthy"}
    assert proxy.ask("GET", "/health").json() == {"status": "ok", "proxy": "healthy", **clusters, "pd_cluster": "empty"}


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/start_profile", "/stop_profile"])
def test_what_goes_to_every_engine(proxy: Proxy, tmp_path: Path, path: str) -> None:
    everybody = {"encoder_0", "prefill_0", "decoder_0", "decoder_1"}
    reply = proxy.ask("POST", f"{path}?reset_running_requests=true")
    assert reply.status_code == 200
    if path != "/reset_prefix_cache":
        assert reply.json() == {name: {"status": 200} for name in everybody}
    absent = Engine("absent", Role.PREFILL, tmp_path, (), "NixlConnector", 30.0)
    add(proxy, "prefill", absent)
    reply = proxy.ask("POST", path)
    remove(proxy, "prefill", absent)
    assert reply.status_code == 500
    if path == "/reset_prefix_cache":
        assert reply.json()["failed"] == [f"127.0.0.1:{absent.port}"]
    else:
        assert {name for name, found in reply.json().items() if "error" in found} == {"prefill_1"}
        assert set(reply.json()) == everybody | {"prefill_1"}
    assert proxy.ask("GET", path).status_code == 405


def test_metrics_are_there(proxy: Proxy) -> None:
    view = proxy.ask("GET", "/metrics?type=role")
    assert "vllm:num_requests_running{model_name=" in view.text
    assert proxy.ask("GET", "/metrics?type=galaxy").status_code == 400
    reply = proxy.ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'pymotor_requests_total{path="/healthcheck"' in reply.text


# -- engines come and go


def test_engines_may_start_later(stages: Engines, tmp_path: Path) -> None:
    late = Engine("late", Role.UNION, tmp_path, (), "NixlConnector", 30.0)
    with running_proxy(tmp_path, *flags_for([late]), serving=False) as proxy:
        health = proxy.ask("GET", "/healthcheck")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        refused = proxy.ask("POST", COMPLETIONS, {"model": "tiny", "prompt": "x"})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        wait_until(
            lambda: (
                f"127.0.0.1:{late.port}: it cannot be reached"
                in proxy.ask("POST", COMPLETIONS, {"model": "tiny", "prompt": "x"}).json()["error"]["message"]
            ),
            "the client is told who is missing",
        )
        late.start()
        try:
            proxy.wait_for(pd=1)
            expected = ask_one(stages[PLAIN].url, text_chat("late"))
            assert ask_one(proxy.url, text_chat("late")).comparable == expected.comparable
        finally:
            assert late.process is not None
            late.process.end()


def test_a_removed_engine_finishes_its_streams_and_gets_nothing_new(unions: Engines, tmp_path: Path) -> None:
    staying, leaving = unions["union-0"], unions["union-1"]
    bodies = [text_chat(f"story {number}", max_tokens=300, ignore_eos=True, stream=True) for number in range(4)]
    with running_proxy(tmp_path, *flags_for([staying, leaving])) as proxy:
        proxy.wait_for(pd=2)

        async def scenario() -> None:
            async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=60) as client:
                stories = [Asked("/v1/chat/completions", body) for body in bodies]
                streams = [asyncio.create_task(ask(client, proxy.url, story)) for story in stories]
                await asyncio.to_thread(
                    wait_until, lambda: leaving.state()["running"] and staying.state()["running"], "both have streams"
                )
                reply = await asyncio.to_thread(remove, proxy, "pd", leaving)
                assert reply.json()["current_pd_instances"] == [f"127.0.0.1:{staying.port}"]
                assert proxy.instances()["union-1"]["state"] == "draining"
                running = leaving.state()["running"]
                await asyncio.to_thread(
                    lambda: [ask_one(proxy.url, text_chat(f"new {number}", max_tokens=1)) for number in range(6)]
                )
                assert running
                assert leaving.state()["running"] <= running
                found = await asyncio.gather(*streams)
                expected = await ask_all(unions[PLAIN].url, stories, 4)
                assert_equal_answers(stories, found, expected, "an engine that leaves")

        served = served_by(leaving)
        asyncio.run(scenario())
        assert served_by(leaving) - served < len(bodies)
        wait_until(lambda: "union-1" not in proxy.instances(), "the engine is forgotten")
        assert proxy.counts()["request_num"] == 0
        # It may come back.
        assert "as soon as they answer" in add(proxy, "pd", leaving).json()["message"]
        proxy.wait_for(pd=2)
        assert "there already" in add(proxy, "pd", leaving).json()["message"]
        served = served_by(leaving)
        for number in range(4):
            assert ask_one(proxy.url, text_chat(f"again {number}", max_tokens=1)).status == 200
        assert served_by(leaving) > served


def test_an_added_engine_that_never_answers_is_given_up(stages: Engines, tmp_path: Path) -> None:
    absent = Engine("absent", Role.DECODE, tmp_path, (), "NixlConnector", 30.0)
    patience = ("--waiting-retry-interval", "0.1", "--max-waiting-retries", "2")
    engines = flags_for([stages["prefill-0"], stages["decode-0"]])
    with running_proxy(tmp_path, *engines, *patience) as proxy:
        proxy.wait_for(prefill=1, decode=1)
        reply = add(proxy, "decode", absent, stages["decode-1"])
        assert len(reply.json()["current_decode_instances"]) == 3
        wait_until(lambda: "has not answered 2 times" in proxy.process.log.read_text(), "the absent engine is given up")
        wait_until(lambda: set(proxy.instances()) == {"prefill-0", "decode-0", "decode-2"}, "it is forgotten")
        proxy.wait_for(decode=2)


def test_an_engine_that_dies_gets_no_requests_until_it_is_back(unions: Engines, tmp_path: Path) -> None:
    with running_proxy(tmp_path, *flags_for([unions["union-0"], unions["union-1"]])) as proxy:
        proxy.wait_for(pd=2)
        unions["union-0"].kill()
        proxy.wait_for(pd=1)
        assert proxy.instances()["union-0"]["fault"]
        for number in range(3):
            assert ask_one(proxy.url, text_chat(f"one is left {number}", max_tokens=1)).status == 200
        unions["union-0"].start()
        proxy.wait_for(pd=2)
        unions["union-1"].fail("die:count=1")
        ask_one(proxy.url, text_chat("kills a core", max_tokens=1))
        ask_one(proxy.url, text_chat("kills a core too", max_tokens=1))
        wait_until(lambda: proxy.instances()["union-1"]["fault"].endswith("its /health says 503"), "its core is dead")
        assert proxy.ask("GET", "/health").status_code == 200
        unions.restore()
        proxy.wait_for(pd=2)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"type": "worker", "instances": "127.0.0.1:1"}, 400, "unknown type 'worker'"),
        ({"type": "decode", "instances": []}, 400, "empty"),
        ({"type": "decode", "instances": [f"127.0.0.1:{port}" for port in range(1, 300)]}, 400, "256 are allowed"),
        ({"type": "decode"}, 400, "instances"),
        ({"type": "decode", "instances": ["127.0.0.1"]}, 400, "not host:port"),
        ({"type": "decode", "instances": ["::1:8000"]}, 400, "[address]:port"),
        ({"type": "decode", "instances": ["127.0.0.1:8000/path"]}, 400, "is no port"),
        ({"type": "decode", "instances": ["user@127.0.0.1:8000"]}, 400, "neither a host name"),
    ],
)
def test_changes_that_make_no_sense(proxy: Proxy, body: object, status: int, words: str) -> None:
    for verb in ("add", "remove"):
        reply = proxy.ask("POST", f"/instances/{verb}", body)
        assert reply.status_code == status
        assert words in reply.json()["error"]


def test_an_unknown_engine_cannot_be_removed(proxy: Proxy, stages: Engines) -> None:
    port = free_port()
    known = f"localhost:{stages['decode-0'].port}"
    reply = proxy.ask("POST", "/instances/remove", {"type": "decode", "instances": [known, f"127.0.0.1:{port}"]})
    assert reply.status_code == 404
    assert len(reply.json()["current_decode_instances"]) == 2
    assert proxy.counts()["decode_instances"] == 2


# -- who may


def test_without_a_token_a_browser_or_a_proxy_in_front_may_not(proxy: Proxy) -> None:
    for headers in ({"Origin": "http://127.0.0.1"}, {"X-Forwarded-For": "127.0.0.1"}, {"Sec-Fetch-Site": "none"}):
        for method, path in (("GET", "/instances"), ("POST", "/reset_prefix_cache"), ("GET", "/metrics")):
            reply = proxy.ask(method, path, **headers)
            assert reply.status_code == 403
            assert "PYMOTOR_PROXY_TOKEN" in reply.json()["error"]
    assert proxy.ask("GET", "/healthcheck", Origin="http://127.0.0.1").status_code == 200
    plain = plain_http.post(f"{proxy.url}/instances/add", content=b"{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415


def test_with_a_token_only_those_who_know_it_may(stages: Engines, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    flags = [*flags_for([stages["prefill-0"], stages["decode-0"]]), "--log-level", "debug", "--token-file", str(file)]
    with running_proxy(tmp_path, *flags) as proxy:
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
            reply = plain_http.post(f"{proxy.url}/start_profile", headers=_latin(wrong), timeout=60)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert add(proxy, "decode", stages["decode-1"], **right).status_code == 200
        proxy.wait_for(decode=2)
        assert proxy.ask("GET", "/instances", **right, Origin="http://elsewhere").status_code == 200
    assert TOKEN not in proxy.process.log.read_text()


def _latin(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def test_engines_with_a_key(tmp_path: Path) -> None:
    keyed = Engine("keyed", Role.UNION, tmp_path, ("--api-key", "sk-engines"), "NixlConnector", 30.0)
    keyed.start()
    try:
        keyed.wait()
        with running_proxy(tmp_path, *flags_for([keyed]), environment={"OPENAI_API_KEY": "sk-engines"}) as proxy:
            assert ask_one(proxy.url, text_chat("with a key")).status == 200
            proxy.wait_for(pd=1)
    finally:
        assert keyed.process is not None
        keyed.process.end()


# -- the command line


def test_a_wrong_command_line_is_told_in_a_line() -> None:
    told = refused_usage("--prefiller-hosts", "a", "b", "--prefiller-ports", "1", "2", "3", "--decoder-ports", "4")
    assert told.splitlines()[-1].endswith("give a port for each host, or one host for all ports")


def test_ipv6_by_address(tmp_path: Path) -> None:
    if not can_listen("::1", free_port()):
        pytest.skip("this machine has no IPv6 loopback")
    engine = Engine("six", Role.UNION, tmp_path, ("--host", "::1"), "NixlConnector", 30.0)
    engine.url = f"http://[::1]:{engine.port}"
    engine.start()
    try:
        engine.wait()
        flags = ("--pd-hosts", "::1", "--pd-ports", str(engine.port), "--host", "::1")
        with running_proxy(tmp_path, *flags, host="::1") as proxy:
            assert ask_one(proxy.url, text_chat("six")).status == 200
            place = f"[::1]:{engine.port}"
            change = {"type": "pd", "instances": place}
            assert proxy.ask("POST", "/instances/remove", change).json()["current_pd_instances"] == []
            wait_until(lambda: not proxy.instances(), "it is forgotten")
            added = proxy.ask("POST", "/instances/add", {"type": "union", "instances": [place]})
            assert added.json()["current_pd_instances"] == [place]
            proxy.wait_for(pd=1)
            assert ask_one(proxy.url, text_chat("six again")).status == 200
    finally:
        assert engine.process is not None
        engine.process.end()
