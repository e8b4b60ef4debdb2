"""`pymotor events --follow` while Controllers come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pymotor.cli import main

EVENT = {"id": 1, "time": 0.0, "kind": "leads", "why": "it does", "instance": "", "node": ""}


class Played(BaseHTTPRequestHandler):
    """Answers what the test lists, one after the other; the last one ends the following."""

    answers: list[tuple[int, object]]

    def do_GET(self) -> None:
        status, body = self.answers.pop(0)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Played)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_it_goes_on_when_a_controller_leads_again(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    away = (503, {"error": "this Controller does not lead", "leader": ""})
    Played.answers = [
        (200, {"newest": 0, "events": []}),
        away,
        away,
        (200, {"newest": 1, "events": [EVENT]}),
        (401, {"error": "enough"}),
    ]
    assert main(["events", "--follow", "--controller", url]) == 1
    said = capsys.readouterr()
    assert "leads  it does" in said.out
    assert said.err.count("does not lead") == 1
    assert "enough" in said.err


@pytest.mark.parametrize("words", [("--follow",), ()])
def test_without_a_first_answer_it_fails(url: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    Played.answers = [(503, {"error": "this Controller does not lead", "leader": ""})]
    assert main(["events", *words, "--controller", url]) == 1
    assert "try again" in capsys.readouterr().err
