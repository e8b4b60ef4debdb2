"""The wire: shapes, ids, errors, streams, as vLLM 0.32 has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sim_legs import CLIENT, Engine, Engines, chat_body, image, text


@pytest.fixture(scope="module")
def engine(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    media = tmp_path_factory.mktemp("media")
    return engines.start(
        *("--max-model-len", "512", "--served-model-name", "sim-model", "alias"),
        *("--allowed-local-media-path", str(media), "--enable-prompt-tokens-details"),
    )


def events(engine: Engine, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a stream, parsed; the last is `[DONE]`."""
    response = engine.post(path, {**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_a_chat_answer_has_all_fields(engine: Engine) -> None:
    reply = engine.chat("hello", max_tokens=5, ignore_eos=True).json()
    assert list(reply) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    (choice,) = reply["choices"]
    assert list(choice) == [
        *("index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts")
    ]
    assert choice["message"]["content"] == "".join(map(chr, choice["token_ids"]))
    assert choice["finish_reason"] == "length"
    prompt = len(reply["prompt_token_ids"])
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "total_tokens": prompt + 5,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": None,
    }


def test_a_chat_stream_is_the_answer_in_pieces(engine: Engine) -> None:
    body = chat_body("hello stream", stream_options={"include_usage": True})
    whole = engine.chat("hello stream").json()
    first, *middle, last = events(engine, "/v1/chat/completions", body)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["prompt_token_ids"] == whole["prompt_token_ids"]
    assert [event["object"] for event in middle] == ["chat.completion.chunk"] * len(middle)
    assert (
        "".join(event["choices"][0]["delta"]["content"] for event in middle)
        == (whole["choices"][0]["message"]["content"])
    )
    streamed = [token for event in middle for token in event["choices"][0]["token_ids"]]
    assert streamed == whole["choices"][0]["token_ids"]
    reasons = [event["choices"][0]["finish_reason"] for event in middle]
    assert reasons == [None] * (len(middle) - 1) + [whole["choices"][0]["finish_reason"]]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert len({event["id"] for event in (first, *middle, last)}) == 1


def test_completions_of_several_prompts_and_choices(engine: Engine) -> None:
    body = {"model": "sim-model", "prompt": ["one", "two"], "n": 2, "max_tokens": 4, "temperature": 1.0, "seed": 5}
    reply = engine.post("/v1/completions", body).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in reply["choices"]]
    assert len(set(texts)) == 4
    streamed = ["", "", "", ""]
    for event in events(engine, "/v1/completions", body):
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts
    ids = engine.post("/tokenize", {"prompt": "one"}).json()["tokens"]
    by_ids = engine.post("/v1/completions", {**body, "prompt": ids, "n": 1}).json()
    assert by_ids["choices"][0]["text"] == texts[0]


def test_seeds(engine: Engine) -> None:
    def sampled(**fields: Any) -> list[int]:
        return engine.tokens("roll the dice", temperature=1.0, ignore_eos=True, **fields)

    assert sampled(seed=1) == sampled(seed=1) != sampled(seed=2)
    assert sampled() != sampled()
    assert sampled(seed=1) != engine.tokens("roll the dice", ignore_eos=True)
    two = engine.chat("roll the dice", temperature=1.0, seed=1, n=2, ignore_eos=True).json()["choices"]
    assert [choice["token_ids"] for choice in two] == [sampled(seed=1), sampled(seed=2)]


def test_stop_strings_never_show_in_a_stream(engine: Engine) -> None:
    answer = engine.chat("stop me", max_tokens=40, ignore_eos=True).json()["choices"][0]["message"]["content"]
    stop = answer[20:23]
    body = chat_body("stop me", max_tokens=40, ignore_eos=True, stop=[stop, "never comes, and is long"])
    parts = events(engine, "/v1/chat/completions", body)
    assert "".join(event["choices"][0]["delta"]["content"] for event in parts) == answer[: answer.index(stop)]
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert parts[-1]["choices"][0]["stop_reason"] == stop


def test_logprobs(engine: Engine) -> None:
    choice = engine.chat("how sure?", logprobs=True, top_logprobs=3, max_tokens=4).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == choice["message"]["content"]
    assert all(len(each["top_logprobs"]) == 3 and each["logprob"] <= 0 for each in content)
    body = {"model": "sim-model", "prompt": "sure?", "logprobs": 2, "max_tokens": 4, "temperature": 0}
    choice = engine.post("/v1/completions", body).json()["choices"][0]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]


def test_ids_come_from_the_header_then_the_body(engine: Engine) -> None:
    headers = {"X-Request-Id": "from-header"}
    reply = engine.post("/v1/chat/completions", chat_body("x", request_id="from-body"), headers=headers).json()
    assert reply["id"] == "chatcmpl-from-header"
    assert engine.chat("x", request_id="from-body").json()["id"] == "chatcmpl-from-body"
    body = {"model": "sim-model", "prompt": "x"}
    assert engine.post("/v1/completions", body, headers=headers).json()["id"] == "cmpl-from-header"


def test_the_prefix_cache_is_used_and_reported(engine: Engine) -> None:
    content = "a prompt long enough for several blocks of sixteen tokens each, asked twice"
    first, second = engine.chat(content).json(), engine.chat(content).json()
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == (second["usage"]["prompt_tokens"] - 1) // 16 * 16
    assert first["choices"] == second["choices"]


def test_models_version_tokens(engine: Engine) -> None:
    cards = engine.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["sim-model", "alias"]
    assert cards[0]["max_model_len"] == 512
    assert engine.chat("x", model="alias").json()["model"] == "sim-model"
    assert engine.get("/version").json()["version"].startswith("0.32")
    reply = engine.post("/tokenize", {"messages": chat_body("héllo")["messages"]}).json()
    assert reply["count"] == len(reply["tokens"])
    assert engine.chat("héllo").json()["prompt_token_ids"] == reply["tokens"]
    words = engine.post("/detokenize", {"tokens": reply["tokens"]}).json()["prompt"]
    assert words == "<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n"


def test_metrics_have_vllms_names(engine: Engine) -> None:
    engine.chat("count me", ignore_eos=True)
    lines = engine.get("/metrics").text
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_hits_total",
        "external_prefix_cache_queries_total",
        "mm_cache_queries_total",
        "prompt_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_sum",
        "e2e_request_latency_seconds_count",
    ):
        assert f'vllm:{name}{{model_name="sim-model",engine="0"' in lines, name
    assert 'vllm:request_success_total{model_name="sim-model",engine="0",finished_reason="length"}' in lines


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({"model": "unknown"}, 404, "NotFoundError", "model"),
        ({"model": 7}, 400, "Bad Request", "body.model"),
        ({"messages": None}, 400, "Bad Request", "body.messages"),
        ({"messages": "hello"}, 400, "Bad Request", "body.messages"),
        ({"max_tokens": "many"}, 400, "Bad Request", "body.max_tokens"),
        ({"max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"stream": "yes please"}, 400, "Bad Request", "body.stream"),
        ({"max_tokens": 513}, 400, "BadRequestError", "max_tokens"),
        ({"n": 2}, 400, "BadRequestError", None),
        ({"stop": list("abcde")}, 400, "Bad Request", "body.stop"),
        ({"stop": ["x", ""]}, 400, "BadRequestError", None),
        ({"temperature": 9}, 400, "BadRequestError", "temperature"),
        ({"stream_options": {"include_usage": True}}, 400, "BadRequestError", "stream_options"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "BadRequestError", "input_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, 400, "BadRequestError", "messages"),
    ],
)
def test_bad_requests(engine: Engine, body: dict[str, Any], status: int, kind: str, param: str | None) -> None:
    response = engine.post("/v1/chat/completions", {**chat_body("x"), **body})
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (response.status_code, error["code"], error["type"], error["param"]) == (status, status, kind, param)


def test_bad_bodies_and_paths(engine: Engine) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"{", b"[]", b"\xff", b""):
        response = CLIENT.post(engine.url + "/v1/chat/completions", content=content, headers=headers)
        assert response.status_code == 400, content
        assert response.json()["error"]["type"] == "Bad Request"
    assert CLIENT.post(engine.url + "/v1/chat/completions", content=b"{}").status_code == 400
    assert (engine.get("/nowhere").status_code, engine.get("/nowhere").json()) == (404, {"detail": "Not Found"})
    wrong = engine.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "cannot identify image file"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,???"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "ftp://somewhere/x.png"}}, "HTTP, data or file URL"),
        ({"type": "image_embeds", "image_embeds": {"image_grid_thw": [1, 2, 2]}}, "--enable-mm-embeds"),
    ],
)
def test_bad_media(engine: Engine, part: dict[str, Any], message: str) -> None:
    response = engine.chat([part])
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "file:///nowhere", "http://127.0.0.1:1/x.png"])
def test_media_that_cannot_be_had_are_500_and_close_the_connection(engine: Engine, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with httpx.Client(base_url=engine.url, timeout=60) as client:
        response = client.post("/v1/chat/completions", json=chat_body([part]))
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "InternalServerError"
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/health")
        assert client.get("/health").status_code == 200


def test_raw_and_embedded_media_of_one_kind_do_not_mix(engines: Engines) -> None:
    lenient = engines.start("--enable-mm-embeds")
    part = {"type": "image_embeds", "image_embeds": {"image_grid_thw": [1, 4, 4]}, "uuid": "u"}
    response = lenient.chat([part, image(1)])
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "Mixing raw image and embedding inputs is not allowed"
    assert lenient.get("/health").status_code == 200


def test_api_keys_guard_v1_only(engines: Engines) -> None:
    locked = engines.start("--api-key", "secret", "other")
    assert locked.get("/health").status_code == 200
    refused = locked.get("/v1/models")
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    for key, status in (("secret", 200), ("other", 200), ("wrong", 401)):
        response = locked.post("/v1/chat/completions", chat_body("x"), headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == status


def test_openai_sdk(engine: Engine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="any", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": [text("hello"), image(1)]}]
        whole = client.chat.completions.create(model="sim-model", messages=messages, temperature=0, max_tokens=9)
        stream = client.chat.completions.create(
            model="sim-model", messages=messages, temperature=0, max_tokens=9, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == whole.choices[0].message.content
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="unknown", messages=messages)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="sim-model", messages=[])


def test_the_shim_runs_vllm_serve_word_for_word(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "pymotor", "sim-engine", "--install-shim", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    shim = Path(made.stdout.strip())
    command = [
        *(str(shim), "serve", "/models/Qwen", "--host", "127.0.0.1", "--port", "0", "--tensor-parallel-size", "2"),
        *("--max_model_len=2048", "--trust-remote-code", "--enforce-eager", "--gpu-memory-utilization", "0.01"),
        *("--kv-transfer-config", '{"kv_connector":"NixlConnector"}', "--kv-transfer-config.kv_role", "kv_both"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            card = CLIENT.get(f"{url}/v1/models").json()["data"][0]
            assert (card["id"], card["max_model_len"]) == ("/models/Qwen", 2048)
        finally:
            process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "--tensor-parallel-size 2" in process.stderr.read()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a model"),
        (["m", "--sim-fault", "explode"], "unknown fault 'explode'"),
        (["m", "--sim-profile", "/nowhere.json"], "/nowhere.json"),
        (["m", "--num-gpu-blocks-override", "4"], "raise --num-gpu-blocks-override"),
        (
            ["m", "--kv-transfer-config", '{"kv_connector":"MoRIIOConnector","kv_role":"kv_both"}'],
            "MoRIIOConnector",
        ),
        (["m", "--ec-transfer-config", '{"ec_connector":"ECExampleConnector"}'], "ec_role"),
    ],
)
def test_wrong_command_lines(flags: list[str], message: str) -> None:
    command = [sys.executable, "-m", "pymotor", "sim-engine", "serve", *flags]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2
    assert message in finished.stderr


def test_a_port_in_use_is_said(engine: Engine) -> None:
    command = [sys.executable, "-m", "pymotor", "sim-engine", "m", "--port", engine.url.rsplit(":", 1)[1]]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert "cannot listen" in finished.stderr


def test_what_is_asked_without_a_seed_is_drawn_anew_and_the_same_in_each_start(engines: Engines) -> None:
    def answers(*flags: str) -> list[tuple[int, ...]]:
        started = engines.start(*flags)
        return [tuple(started.tokens("roll the dice", temperature=1.0, ignore_eos=True)) for _ in range(3)]

    first = answers()
    assert len(set(first)) == 3
    assert answers() == first
    assert not set(answers("--seed", "7")) & set(first)
