"""What an engine may say of itself without harm to those who ask."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from pymotor.coordinator.proxy.inquiry import EngineUnwell, Served, ask_models, client


@pytest.fixture
def engine() -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server, and the body it answers with."""
    body: list[bytes] = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body[0])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", body
    server.shutdown()
    thread.join()
    server.server_close()


async def asked(url: str) -> Served:
    async with client("") as asking:
        return await ask_models(asking, url)


def test_the_shortest_context_counts(engine: tuple[str, list[bytes]]) -> None:
    url, body = engine
    body.append(b'{"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "max_model_len": 128}, {"id": "c"}]}')
    assert asyncio.run(asked(url)) == Served(("a", "b", "c"), 128)


@pytest.mark.parametrize("length", [b"99999999999999999999999999", b"9223372036854775807", b"0", b"-5", b"1.5", b'"x"'])
def test_a_length_that_is_none_makes_the_engine_unwell(engine: tuple[str, list[bytes]], length: bytes) -> None:
    url, body = engine
    body.append(b'{"data": [{"id": "a", "max_model_len": %b}]}' % length)
    with pytest.raises(EngineUnwell, match="cannot be read"):
        asyncio.run(asked(url))
