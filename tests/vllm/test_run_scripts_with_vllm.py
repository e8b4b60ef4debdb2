"""The run scripts of the examples with real vLLM on the CPU: answers equal to those of one plain engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from engine_legs import JSON, answer, chat, image, post, stream, text, token_ids
from engines_under_test import CHECKOUT, EnginesUnderTest, metric, port_claims, vllm_python_or_skip

pytestmark = pytest.mark.vllm

SCRIPTS = CHECKOUT / "examples" / "online_serving" / "disaggregated_encoder"
READY_SECONDS = 600.0
END_SECONDS = 60.0


@dataclass(frozen=True)
class RunScripts:
    """All parts of a guide, started by its `run_all.sh`."""

    proxy: str
    decode: str
    """URLs of the proxy and of the engine that writes the answers."""
    store: Path

    def embeddings(self) -> int:
        """How many items encode has written."""
        return len(list(self.store.glob("*/encoder_cache.safetensors")))


@contextlib.contextmanager
def run_all(case: str, engines: EnginesUnderTest, directory: Path) -> Iterator[RunScripts]:
    """The script for the length of a `with` block; nothing that it started lives after it."""
    log = directory / "run_all.log"
    names = ("E_PORT", "PD_PORT", "P_PORT", "D_PORT", "PROXY_PORT", "P_KV_PORT", "D_KV_PORT")
    with port_claims() as claims:
        free = (port for port in range(21000, 32000) if claims.claim_unbound("127.0.0.1", port))
        ports = {name: next(free) for name in names}
        settings = {
            "ENGINE": "cpu",
            "VLLM_PYTHON": vllm_python_or_skip(),
            "PYTHON": sys.executable,
            "MODEL": str(engines.directory / "tiny-qwen3-vl"),
            "EC_SHARED_STORAGE_PATH": str(directory / "embeddings"),
            **{name: str(port) for name, port in ports.items()},
        }
        with log.open("wb") as output:
            script = subprocess.Popen(
                ["bash", str(SCRIPTS / f"disagg_{case}" / "run_all.sh")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **settings},
            )
        started: list[psutil.Process] = []
        try:
            wait_until_ready(script, log)
            started = psutil.Process(script.pid).children(recursive=True)
            decode = ports["PD_PORT" if case == "1e1pd" else "D_PORT"]
            proxy = f"http://127.0.0.1:{ports['PROXY_PORT']}"
            yield RunScripts(proxy, f"http://127.0.0.1:{decode}", directory / "embeddings")
        finally:
            script.send_signal(signal.SIGINT)
            status = script.wait(END_SECONDS)
            _, alive = psutil.wait_procs(started, END_SECONDS)
            for process in alive:
                process.kill()
        assert status == 130, log.read_text()[-3000:]
        assert not alive, alive


def wait_until_ready(script: subprocess.Popen[bytes], log: Path) -> None:
    """Until the script says so. Raises `AssertionError` with the log's end."""
    ends = time.monotonic() + READY_SECONDS
    while "ready on http://" not in (said := log.read_text(errors="replace")).replace("proxy ready on", ""):
        assert script.poll() is None, said[-5000:]
        assert time.monotonic() < ends, said[-5000:]
        time.sleep(0.2)


def questions() -> list[JSON]:
    """Requests with none, one and several images, one of them twice."""
    contents = [
        (image(901), text("What is the text in the illustrate?")),
        (text("Who are you?"),),
        (image(902, 64, 128), text("Compare."), image(903, 160, 96)),
        (image(901), image(901), text("Are they the same?")),
    ]
    return [chat(*parts, max_tokens=16, return_token_ids=True) for parts in contents]


@pytest.mark.parametrize("case", ["1e1pd", "1e1p1d"])
def test_answers_are_those_of_one_engine(case: str, vllm_engines: EnginesUnderTest, tmp_path: Path) -> None:
    references = [answer(post(vllm_engines.union, body)) for body in questions()]
    with run_all(case, vllm_engines, tmp_path) as scripts:
        for body, reference in zip(questions(), references, strict=True):
            reply = answer(post(scripts.proxy, body))
            assert token_ids(reply) == token_ids(reference)
            assert reply["prompt_token_ids"] == reference["prompt_token_ids"]
            streamed = [event["choices"] for event in stream(scripts.proxy, body).objects]
            ids = [token for choices in streamed[1:] if choices for token in choices[0]["token_ids"]]
            assert ids == token_ids(reference)
        assert scripts.embeddings() == 3
        if case == "1e1p1d":
            assert metric(scripts.decode, "vllm:external_prefix_cache_hits_total") > 0
