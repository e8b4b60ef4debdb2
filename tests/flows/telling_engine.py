"""An engine as far as the conductor asks it over HTTP: where it publishes and which models it serves."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from event_publisher import TOPIC, EventPublisher


class TellingEngine(ThreadingHTTPServer):
    """Says what it is told to. Use as a context manager."""

    def __init__(self, *publishers: EventPublisher) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer: object = {}
        """To `/kv_event_sources`."""
        self.status = 200
        """Of that answer."""
        self.models: object = {}
        self.models_status = 200
        self.key = ""
        """Without which the models are not told."""
        self.asked = 0
        """How many questions it got."""
        if publishers:
            self.publish_at(*publishers)

    def __enter__(self) -> TellingEngine:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def publish_at(self, *publishers: EventPublisher) -> None:
        """Say that these are its ranks."""
        self.answer = {
            str(rank): {"endpoint": one.address, "replay_endpoint": one.replay_address, "topic": TOPIC.decode()}
            for rank, one in enumerate(publishers)
        }

    def serve_names(self, *names: str, adapters: tuple[str, ...] = ()) -> None:
        """Say that it serves these; the first one is the model itself."""
        cards = [{"id": name, "parent": None} for name in names]
        self.models = {"object": "list", "data": cards + [{"id": name, "parent": names[0]} for name in adapters]}


class _Handler(BaseHTTPRequestHandler):
    server: TellingEngine

    def do_GET(self) -> None:
        """What it was told to say."""
        self.server.asked += 1
        answer, status = self.server.answer, self.server.status
        if self.path == "/v1/models":
            answer, status = self.server.models, self.server.models_status
            if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
                status = 401
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""
