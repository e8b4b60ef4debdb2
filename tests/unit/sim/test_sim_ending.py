"""SIGTERM ends an engine whatever it is doing, and says so when it is stuck."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sim_legs import Engine, Engines, chat_body, ec_flags, eventually, nixl_flags, prefill

NEVER_INTERRUPTED = """
import asyncio, ctypes
from pymotor.engines.sim.ending import hear_signals, hold_signals_back

def waits_for_a_mutex_of_its_own():
    system, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    system.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    system.pthread_mutex_lock(mutex)

async def main():
    hear_signals(lambda: None, 0.5)
    waits_for_a_mutex_of_its_own()

hold_signals_back()
asyncio.run(main())
"""
"""Its main thread never comes back from C: as where a signal comes just before a system call begins."""

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


def test_one_whose_main_thread_no_signal_interrupts_says_where_and_ends() -> None:
    engine = subprocess.Popen(
        [sys.executable, "-c", NEVER_INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == "ready\n"
        engine.terminate()
        assert "waits_for_a_mutex_of_its_own" in engine.communicate(timeout=60)[1]
        assert engine.returncode == 1
    finally:
        engine.kill()
        engine.communicate()


def test_no_thread_takes_a_signal_from_the_one_that_waits_for_them(engines: Engines) -> None:
    engine = engines.start()
    engine.tokens("so that it has worked")
    ending = 1 << (signal.SIGTERM - 1) | 1 << (signal.SIGINT - 1)

    def waiting() -> int:
        blocked = [
            int(line.split()[1], 16)
            for status in Path(f"/proc/{engine.process.pid}/task").glob("*/status")
            for line in status.read_text().splitlines()
            if line.startswith("SigBlk")
        ]
        return sum(mask & ending != ending for mask in blocked)

    assert waiting() == 1


def test_an_engine_that_was_told_to_end_before_it_began_ends() -> None:
    """As when whoever started it had blocked the signal."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        argv = [sys.executable, "-m", "pymotor", "sim-engine", "serve", "sim-model", "--port", "0"]
        engine = subprocess.Popen(argv)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        engine.terminate()
        assert engine.wait(60) == 0
    finally:
        engine.kill()
        engine.wait()


def test_a_second_signal_ends_a_stuck_engine_at_once(engines: Engines, tmp_path: Path) -> None:
    with stuck_engine(engines, tmp_path) as engine:

        def ended() -> bool:
            engine.process.terminate()
            return engine.process.poll() is not None

        eventually(ended)
        assert engine.process.returncode == -signal.SIGTERM
