"""Handoffs and failures with real vLLM behind the Coordinator: every answer is the plain engine's."""

from __future__ import annotations

import functools
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_before_engines import active, gateway_over
from recording_proxy import RecordingProxy

from engine_legs import COMPLETIONS, JSON, TIMEOUT, answer, chat, image, png, post, stream, text, token_ids
from engines_under_test import LEASE_SECONDS, EnginesUnderTest, ExtraEngine, metric, more_engines
from pymotor.fleet import Instance, Role

pytestmark = pytest.mark.vllm

TOKENS = 16
QUICK = {"exception_config": {"retry_delay": 0.05}}
PUSH = {
    "kv_connector": "NixlPushConnector",
    "kv_buffer_device": "cpu",
    "kv_connector_extra_config": {"kv_lease_duration": LEASE_SECONDS},
}

MakeGateway = Callable[..., str]


@pytest.fixture
def make_gateway(vllm_engines: EnginesUnderTest, tmp_path: Path) -> Iterator[MakeGateway]:
    """Start Coordinators that end with the test; returns their URL for clients."""
    with ExitStack() as opened:

        def make(*instances: Instance, **config: Any) -> str:
            return opened.enter_context(gateway_over(vllm_engines, instances, tmp_path, {**QUICK, **config}))[0]

        yield make


def stage(engines: EnginesUnderTest, role: Role, url: str | None = None) -> Instance:
    """One of the four as it stands in a fleet."""
    return active(engines.plans[role].instance, url or engines.url(role))


def beside(engine: ExtraEngine) -> Instance:
    """A further engine as it stands in a fleet."""
    return active(engine.plan.instance, engine.url)


def questions(seed: int) -> list[JSON]:
    """Without media, with one image, with two."""
    ask = functools.partial(chat, max_tokens=TOKENS, return_token_ids=True)
    return [
        ask(text(f"Question {seed}: what is the time?")),
        ask(image(seed), text(f"Question {seed}: what is shown?")),
        ask(image(seed + 1, 160, 96), text("and"), image(seed + 2, 64, 128), text("Compare.")),
    ]


def assert_right(url: str, engines: EnginesUnderTest, bodies: list[JSON]) -> None:
    """All at once, the gateway answers what the plain engine answers."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        replies = list(threads.map(lambda body: answer(post(url, body)), bodies))
    for body, reply in zip(bodies, replies, strict=True):
        assert token_ids(reply) == token_ids(answer(post(engines.union, body)))


class TestOtherFleets:
    """Connectors that the four engines do not have."""

    @pytest.fixture(scope="class")
    def others(self, vllm_engines: EnginesUnderTest) -> Iterator[tuple[ExtraEngine, ...]]:
        """Prefill and decode that push, and a union engine that reads embeddings: started together, since engines
        that start one after the other leave processors idle."""
        roles = [
            (Role.PREFILL, {"kv_transfer_config": {**PUSH, "kv_role": "kv_producer"}}),
            (Role.DECODE, {"kv_transfer_config": {**PUSH, "kv_role": "kv_consumer"}}),
            (Role.UNION, {"ec_transfer_config": {"ec_connector": "ECExampleConnector", "ec_role": "ec_consumer"}}),
        ]
        with more_engines(vllm_engines, roles) as engines:
            yield engines

    def test_prefill_pushes(
        self, vllm_engines: EnginesUnderTest, others: tuple[ExtraEngine, ...], make_gateway: MakeGateway
    ) -> None:
        """NixlPushConnector: the same order and fields, the other direction of the transfer."""
        prefill, decode, _ = others
        url = make_gateway(stage(vllm_engines, Role.ENCODE), beside(prefill), beside(decode))
        bodies = questions(100)
        assert_right(url, vllm_engines, bodies)
        prompts = sum(answer(post(vllm_engines.union, body))["usage"]["prompt_tokens"] for body in bodies)
        assert metric(decode.url, "vllm:external_prefix_cache_hits_total") >= prompts

    def test_encode_before_union(
        self, vllm_engines: EnginesUnderTest, others: tuple[ExtraEngine, ...], make_gateway: MakeGateway
    ) -> None:
        for forward_media in ("prefill", "never"):
            url = make_gateway(
                stage(vllm_engines, Role.ENCODE), beside(others[2]), encode_config={"forward_media": forward_media}
            )
            assert_right(url, vllm_engines, questions(200 if forward_media == "never" else 210))


def test_two_prompts_in_one_request(vllm_engines: EnginesUnderTest, make_gateway: MakeGateway) -> None:
    """Engines hand over the first prompt's parameters only, and answer the second wrongly with 200 when asked."""
    url = make_gateway(stage(vllm_engines, Role.PREFILL), stage(vllm_engines, Role.DECODE))
    prompts = ["Once upon a time there was " * 9, "The second prompt is another one. " * 7]
    body = {"model": "qwenvl", "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True}
    reply = answer(post(url, {**body, "prompt": prompts}, COMPLETIONS))
    alone = [answer(post(vllm_engines.union, {**body, "prompt": prompt}, COMPLETIONS)) for prompt in prompts]
    assert [choice["token_ids"] for choice in reply["choices"]] == [token_ids(one) for one in alone]


def test_media_from_a_web_server(vllm_engines: EnginesUnderTest, make_gateway: MakeGateway) -> None:
    """The engines fetch it; the gateway passes the URL on."""
    url = make_gateway(
        stage(vllm_engines, Role.ENCODE), stage(vllm_engines, Role.PREFILL), stage(vllm_engines, Role.DECODE)
    )
    with web_server({"/one.png": png(300), "/two.png": png(301, 160, 96)}) as site:
        parts = [{"type": "image_url", "image_url": {"url": f"{site}/{name}.png"}} for name in ("one", "two")]
        assert_right(url, vllm_engines, [chat(*parts, text("Compare."), max_tokens=TOKENS, return_token_ids=True)])


def test_items_of_which_one_is_not_encoded(vllm_engines: EnginesUnderTest, make_gateway: MakeGateway) -> None:
    """Raw media and metadata of one modality in one request would be refused: all items go on as media."""
    poison = image(401, 160, 96)
    with RefusingProxy(vllm_engines.encode, poison["image_url"]["url"][-60:].encode()) as encode:
        url = make_gateway(
            stage(vllm_engines, Role.ENCODE, encode.url),
            stage(vllm_engines, Role.PREFILL),
            stage(vllm_engines, Role.DECODE),
            encode_config={"forward_media": "never"},
        )
        body = chat(image(400), poison, image(402), text("Compare."), max_tokens=TOKENS, return_token_ids=True)
        assert_right(url, vllm_engines, [body])


class TestEnginesThatFail:
    """Each with an engine of its own that is short of something or dies."""

    @pytest.fixture(scope="class")
    def troubled(self, vllm_engines: EnginesUnderTest) -> Iterator[tuple[ExtraEngine, ...]]:
        """Prefill with a short lease, decode with little KV, and decode that will be killed; started together."""
        lease = {"kv_connector_extra_config": {"kv_lease_duration": 4}}
        config = {"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_buffer_device": "cpu", **lease}
        roles: list[tuple[Role, JSON]] = [
            (Role.PREFILL, {"kv_transfer_config": config}),
            (Role.DECODE, {"num_gpu_blocks_override": 9, "max_model_len": 1024}),
            (Role.DECODE, {}),
        ]
        with more_engines(vllm_engines, roles) as engines:
            yield engines

    def test_decode_beyond_the_lease(
        self, vllm_engines: EnginesUnderTest, troubled: tuple[ExtraEngine, ...], make_gateway: MakeGateway
    ) -> None:
        """Decode's door opens when half of prefill's lease is over: its leg is not sent, prefill runs again."""
        prefill = troubled[0]
        with SlowDoor(vllm_engines.decode) as decode:
            planned = beside(prefill)
            assert planned.kv is not None
            assert planned.kv.handoff_seconds == 4
            url = make_gateway(planned, stage(vllm_engines, Role.DECODE, decode.url))
            assert_right(url, vllm_engines, questions(500)[:1])
            legs = metric(prefill.url, "vllm:request_success_total")
            decode.shut_for(2.5)
            assert_right(url, vllm_engines, [chat(text("Late?" * 40), max_tokens=TOKENS, return_token_ids=True)])
            assert metric(prefill.url, "vllm:request_success_total") - legs == 2, "prefill ran again"

    def test_decode_short_of_kv_with_media(
        self, vllm_engines: EnginesUnderTest, troubled: tuple[ExtraEngine, ...], make_gateway: MakeGateway
    ) -> None:
        """Preempting a request with media kills a vLLM 0.32 engine core: only as many are let in as fit."""
        decode = troubled[1]
        assert beside(decode).kv_capacity_tokens == 9 * 128
        url = make_gateway(stage(vllm_engines, Role.ENCODE), stage(vllm_engines, Role.PREFILL), beside(decode))
        ask = functools.partial(chat, max_tokens=200, ignore_eos=True, return_token_ids=True)
        bodies = [ask(image(600 + seed, 224, 224), text(f"Item {seed}. " * 20)) for seed in range(5)]
        assert_right(url, vllm_engines, bodies)
        assert httpx.get(f"{decode.url}/health", timeout=10).status_code == 200
        assert metric(decode.url, "vllm:num_preemptions_total") == 0

    def test_decode_killed_in_mid_stream(
        self, vllm_engines: EnginesUnderTest, troubled: tuple[ExtraEngine, ...], make_gateway: MakeGateway
    ) -> None:
        """The client's answer is complete and the undisturbed one; the engine that comes back is used again."""
        body = chat(text("Tell a long story." * 8), max_tokens=400, ignore_eos=True)
        usage = {"stream_options": {"include_usage": True}}
        events = stream(vllm_engines.union, body).objects
        right = [event["choices"][0]["delta"].get("content") or "" for event in events]
        extra = troubled[2]
        with RecordingProxy(extra.url) as door:
            url = make_gateway(
                stage(vllm_engines, Role.PREFILL),
                active(extra.plan.instance, door.url),
                stage(vllm_engines, Role.DECODE),
            )
            text_so_far, events = "", []
            for _ in range(6):
                text_so_far, events = _stream_killing(url, {**body, **usage}, extra, door)
                if door.sent():
                    break
            assert door.sent(), "the stream never went to the engine that was to be killed"
            assert text_so_far == "".join(right)
            assert events[-2]["choices"][0]["finish_reason"] == "length"
            assert events[-1]["usage"]["completion_tokens"] == 400
            assert len({event["id"] for event in events}) == 1
        with more_engines(vllm_engines, [(Role.DECODE, {})]) as (again,):
            url = make_gateway(stage(vllm_engines, Role.PREFILL), beside(again))
            assert_right(url, vllm_engines, questions(700)[:1])


def _stream_killing(url: str, body: JSON, extra: ExtraEngine, door: RecordingProxy) -> tuple[str, list[JSON]]:
    """The text and events of a stream whose decode engine is killed after the fifth event, if it is that one."""
    said, events = "", []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=TIMEOUT) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            events.append(event)
            if event["choices"]:
                said += event["choices"][0]["delta"].get("content") or ""
            if len(events) == 5 and door.sent():
                extra.kill()
    return said, events


@contextmanager
def web_server(files: dict[str, bytes]) -> Iterator[str]:
    """An HTTP server with these files; its URL."""

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files[self.path]
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class RefusingProxy(RecordingProxy):
    """Breaks a connection off once these bytes have come."""

    def __init__(self, target_url: str, poison: bytes) -> None:
        super().__init__(target_url)
        self._poison = poison
        self._tail = b""

    def record(self, data: bytes) -> None:
        """Raises `OSError` for the poison, which ends the connection."""
        self._tail = (self._tail + data)[-400_000:]
        if self._poison in self._tail:
            self._tail = b""
            raise ConnectionResetError


class SlowDoor(RecordingProxy):
    """Can be shut: connections wait in the kernel until it opens again."""

    request_queue_size = 0

    def __init__(self, target_url: str) -> None:
        super().__init__(target_url)
        self._inside: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        """A connection has come in."""
        self._inside.append(request)
        super().process_request(request, client_address)

    def shut_for(self, seconds: float) -> None:
        """Turn out who is in, and let nobody in from now on for so long."""
        self.shutdown()
        self._thread.join()
        for inside in self._inside:
            with suppress(OSError):
                inside.shutdown(socket.SHUT_RDWR)
        address = self.server_address
        self._waiting = [socket.socket() for _ in range(3)]
        for waiting in self._waiting:
            waiting.setblocking(False)
            waiting.connect_ex((address[0], address[1]))
        self._thread = threading.Thread(target=self._open_after, args=(seconds,))
        self._thread.start()

    def _open_after(self, seconds: float) -> None:
        time.sleep(seconds)
        for waiting in self._waiting:
            waiting.close()
        self.serve_forever()
