"""SIGTERM ends an engine whatever it is doing, and says so when it is stuck."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sim_legs import Engine, Engines, chat_body, ec_flags, eventually, nixl_flags, prefill

LONG = {"stream": True, "max_tokens": 30_000, "ignore_eos": True}


def sent(engine: Engine, body: dict[str, Any]) -> socket.socket:
    """A connection with a request whose answer nobody reads."""
    url = httpx.URL(engine.url)
    data = msgspec.json.encode(body)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection = socket.create_connection((url.host, url.port or 0))
    connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return connection


@contextmanager
def stuck_engine(engines: Engines, directory: Path) -> Iterator[Engine]:
    """An engine whose loop reads from a pipe into which nobody writes."""
    (directory / "pipe").mkdir()
    pipe = directory / "pipe" / "encoder_cache.safetensors"
    os.mkfifo(pipe)
    engine = engines.start(*ec_flags("ec_consumer", directory))
    part = {"type": "image_embeds", "image_embeds": {"image_grid_thw": [1, 4, 4]}, "uuid": "pipe"}
    with sent(engine, chat_body([part])):
        writers: list[int] = []

        def is_read() -> bool:
            try:
                writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads yet
                return False
            return True

        eventually(is_read)
        try:
            yield engine
        finally:
            os.close(writers[0])


def test_clients_and_transfers_under_way_do_not_keep_it(engines: Engines) -> None:
    producer = engines.start(*nixl_flags("kv_producer"))
    consumer = engines.start(*nixl_flags("kv_consumer"))
    bodies = [
        chat_body(f"to be fetched {n}", kv_transfer_params=prefill(producer, f"to be fetched {n}")) for n in range(4)
    ]
    producer.process.send_signal(signal.SIGSTOP)
    try:
        with ExitStack() as clients:
            for body in [*bodies, *(chat_body(f"long {n}", **LONG) for n in range(4))]:
                clients.enter_context(sent(consumer, body))
            eventually(lambda: consumer.state()["transfers"] == 4 and consumer.state()["running"] == 4)
            consumer.process.terminate()
            assert consumer.process.wait(60) == 0
    finally:
        producer.process.send_signal(signal.SIGCONT)
    assert producer.get("/health").status_code == 200


def test_an_engine_that_is_stuck_says_where_and_ends(
    engines: Engines, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with stuck_engine(engines, tmp_path) as engine:
        engine.process.terminate()
        assert engine.process.wait(60) == 1
    assert "read_tensor" in capfd.readouterr().err


def test_a_second_signal_ends_a_stuck_engine_at_once(engines: Engines, tmp_path: Path) -> None:
    with stuck_engine(engines, tmp_path) as engine:

        def ended() -> bool:
            engine.process.terminate()
            return engine.process.poll() is not None

        eventually(ended)
        assert engine.process.returncode == -signal.SIGTERM
