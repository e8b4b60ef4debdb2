"""The vLLM-Ascend guide to encode, prefill and decode apart, as it is printed: every block, word for word.

`vllm` on PATH is the simulated engine, which takes an image's URL for the image, so that nothing is downloaded.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from private_machine import PrivateMachine, Running, wait_until
from typed import HERE, typed

GUIDE = typed("epd_guide")
PROXIES = "/vllm-workspace/vllm-ascend/examples/epd_disaggregated"
SCRIPTS = "/vllm-workspace/vllm-ascend/examples/online_serving/disaggregated_encoder"
ENCODE, PREFILL, DECODE = ("http://127.0.0.1:23001", "http://127.0.0.1:33003", "http://127.0.0.1:33006")
PROXY = "http://127.0.0.1:8001"


def ask(machine: PrivateMachine, block: str) -> dict[str, Any]:
    """The answer to the guide's curl."""
    answer: dict[str, Any] = json.loads(machine.run(GUIDE[block]))
    return answer


def assert_answered(answer: dict[str, Any]) -> None:
    """A whole answer, of whatever length: the guide leaves it to chance, so that any token may be the last."""
    assert answer["object"] == "chat.completion", answer
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop", answer
    # The simulated model's tokens are characters, but for the one that ends the answer.
    assert len(choice["message"]["content"]) == answer["usage"]["completion_tokens"] - 1 >= 0, answer


def wait_for_fleet(machine: PrivateMachine, proxy: Running) -> None:
    machine.wait_until_ok(f"{PROXY}/healthcheck", proxy)


def embeddings(machine: PrivateMachine) -> int:
    """How many items are in the guide's store."""
    return len(list(machine.path("/data/ec_cache").glob("*/encoder_cache.safetensors")))


def test_1e1pd_as_printed(machine: PrivateMachine) -> None:
    encode = machine.start(GUIDE["1e1pd: run_e.sh"])
    machine.wait_until_ok(f"{ENCODE}/health", encode)
    prefill_decode = machine.start(GUIDE["1e1pd: run_pd.sh"])
    machine.wait_until_ok(f"{PREFILL}/health", prefill_decode)
    proxy = machine.start(GUIDE["1e1pd: run_proxy.sh"], PROXIES)
    wait_until(lambda: "ready on" in proxy.printed, lambda: proxy.output)
    # The guide's proxy looks for 33005, its engine is at 33003: that is told, and all is well once 33005 answers.
    refused = ask(machine, "1e1pd: ask")
    assert refused["error"]["code"] == "service_unavailable", refused
    wait_until(lambda: "(127.0.0.1:33005) gets no requests: it cannot be reached" in proxy.output, lambda: proxy.output)
    machine.start(f"python3 {HERE}/forward_port.py 33005 33003")
    wait_for_fleet(machine, proxy)
    assert_answered(ask(machine, "1e1pd: ask"))
    assert embeddings(machine) == 1


def test_1e1p1d_as_printed(machine: PrivateMachine) -> None:
    engines = {
        ENCODE: machine.start(GUIDE["1e1p1d: run_e.sh"]),
        PREFILL: machine.start(GUIDE["1e1p1d: run_p.sh"]),
        DECODE: machine.start(GUIDE["1e1p1d: run_d.sh"]),
    }
    for url, engine in engines.items():
        machine.wait_until_ok(f"{url}/health", engine)
    # A second encoder is named, at 23002, that the guide never starts.
    proxy = machine.start(GUIDE["1e1p1d: run_proxy.sh"], PROXIES)
    wait_for_fleet(machine, proxy)
    assert_answered(ask(machine, "1e1p1d: ask"))
    assert embeddings(machine) == 1


@pytest.mark.parametrize(
    ("case", "engines"),
    [
        ("1e1pd", {"start encode": ENCODE, "start prefill-decode": PREFILL}),
        ("1e1p1d", {"start encode": ENCODE, "start prefill": PREFILL, "start decode": DECODE}),
    ],
)
def test_the_scripts_by_their_names(machine: PrivateMachine, case: str, engines: dict[str, str]) -> None:
    machine.path("/your/local/model/path/Qwen3-VL-8B-Instruct").mkdir(parents=True)
    directory = f"{SCRIPTS}/disagg_{case}"
    for name, url in engines.items():
        engine = machine.start(GUIDE[f"{case}: {name}"], directory)
        machine.wait_until_ok(f"{url}/health", engine)
    proxy = machine.start(GUIDE[f"{case}: start the proxy"], directory)
    wait_for_fleet(machine, proxy)
    assert_answered(ask(machine, f"{case}: ask"))
    assert embeddings(machine) == 1


def test_every_block_is_run() -> None:
    """By the tests above."""
    source = (HERE / "test_epd_guide.py").read_text()
    for name in GUIDE:
        block = name.partition(": ")[2]
        assert f'"{name}"' in source or f'"{block}"' in source or f"{{case}}: {block}" in source, name
