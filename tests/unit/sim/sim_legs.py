"""Simulated engines as real processes, and the legs tests send them by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CLIENT = httpx.Client(timeout=60.0)


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)


class Engine:
    """A running engine and shorthands for what tests ask of it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return CLIENT.post(self.url + path, json=body, **options)

    def get(self, path: str) -> httpx.Response:
        return CLIENT.get(self.url + path)

    def chat(self, content: Any, **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", chat_body(content, **fields))

    def tokens(self, content: Any, **fields: Any) -> list[int]:
        response = self.chat(content, **fields)
        assert response.status_code == 200, response.text
        ids: list[int] = response.json()["choices"][0]["token_ids"]
        return ids

    def fault(self, *specifications: str) -> None:
        response = self.post("/sim/faults", {"faults": list(specifications)})
        assert response.status_code == 200, response.text

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.get("/sim/state").json()
        return state


def idle(engine: Engine) -> bool:
    """Whether the engine holds nothing for anybody."""
    kept = ("dead", "blocks", "ports", "preemptions", "embedding_tokens")
    return not any(value for name, value in engine.state().items() if name not in kept)


@contextmanager
def unread(engine: Engine, body: dict[str, Any], name: str = "") -> Iterator[None]:
    """A chat whose answer nobody reads; at the end its client is gone."""
    url = httpx.URL(engine.url)
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-id: {name}\r\n"
    )
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        yield


class Engines:
    """Starts engines and ends them all."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []

    def start(self, *flags: str, model: str = "sim-model", environment: dict[str, str] | None = None) -> Engine:
        argv = [sys.executable, "-m", "pymotor", "sim-engine", "serve", model, "--port", "0", "--sim-control", *flags]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        assert process.stdout is not None
        line = process.stdout.readline()
        if "ready on http://" not in line:
            process.kill()
            process.wait()
            raise AssertionError(f"{argv} said {line!r}")
        self._engines.append(Engine(process, line.split()[-1]))
        return self._engines[-1]

    def stop(self) -> None:
        for engine in self._engines:
            engine.process.send_signal(signal.SIGTERM)
        for engine in self._engines:
            engine.process.wait(60)
            if engine.process.stdout is not None:
                engine.process.stdout.close()


def ec_flags(role: str, directory: Path) -> list[str]:
    config = {
        "ec_connector": "ECExampleConnector",
        "ec_role": role,
        "ec_connector_extra_config": {"shared_storage_path": str(directory)},
    }
    return ["--ec-transfer-config", json.dumps(config)]


def ec_peer_flags(connector: str, role: str, *, ip_port: int | None = None, **extra: Any) -> list[str]:
    """Flags for an encoder cache that goes from engine to engine."""
    config: dict[str, Any] = {"ec_connector": connector, "ec_role": role, "ec_connector_extra_config": extra}
    if ip_port is not None:
        config |= {"ec_ip": "127.0.0.1", "ec_port": ip_port}
    return ["--ec-transfer-config", json.dumps(config)]


def nixl_flags(role: str, **extra: Any) -> list[str]:
    config = {"kv_connector": "NixlConnector", "kv_role": role, "kv_connector_extra_config": extra}
    return ["--kv-transfer-config", json.dumps(config)]


def kv_flags(connector: str, role: str, **fields: Any) -> list[str]:
    return ["--kv-transfer-config", json.dumps({"kv_connector": connector, "kv_role": role, **fields})]


def store_flags(directory: Path) -> list[str]:
    config = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(directory)},
    }
    return ["--kv-transfer-config", json.dumps(config)]


def chat_body(content: Any, **fields: Any) -> dict[str, Any]:
    base = {"model": "sim-model", "temperature": 0, "max_tokens": 24, "return_token_ids": True}
    return {**base, "messages": [{"role": "user", "content": content}], **fields}


def png(seed: int, width: int = 96, height: int = 64) -> bytes:
    header = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )
    return header + bytes([seed]) * 40


def image(seed: int, width: int = 96, height: int = 64) -> dict[str, Any]:
    data = b64encode(png(seed, width, height)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def embeds(encoded: httpx.Response) -> list[dict[str, Any]]:
    """The parts that stand for the media an encoder answered for."""
    items = encoded.json()["ec_transfer_params"]
    return [
        {"type": "image_embeds", "image_embeds": item["metadata"], "uuid": identifier}
        for identifier, item in items.items()
    ]


REMOTE_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def prefill(engine: Engine, content: Any, **fields: Any) -> dict[str, Any]:
    """P's leg; returns what D is to be given."""
    response = engine.chat(content, max_tokens=1, min_tokens=1, kv_transfer_params=REMOTE_DECODE, **fields)
    assert response.status_code == 200, response.text
    params: dict[str, Any] = response.json()["kv_transfer_params"]
    assert params["do_remote_prefill"] is True
    return params
