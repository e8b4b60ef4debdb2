"""A dashboard without a Coordinator: the page's own files, and a fleet of any size that lives as a busy one does.

The answers are made of the Coordinator's own structs, so that the page is fed what it gets there.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from pymotor.coordinator.dashboard.fleet_picture import EndpointPicture, FleetPicture, InstancePicture
from pymotor.coordinator.dashboard.page_files import HEADERS, page_files
from pymotor.coordinator.dashboard.series import INTERVAL, Point
from pymotor.coordinator.dashboard.timeline import Candidate, FinishedRequest, LegInShort, Timeline, TimelineStep

_POINTS = 450
_REQUESTS = 200


class PlayedFleet:
    """Figures that change as time goes on."""

    def __init__(self, instances: int, seed: int = 7) -> None:
        """`instances`: over four roles; of 4 and fewer, one each of those that there is room for."""
        self._random = random.Random(seed)
        shares = (("encode", 0.15), ("prefill", 0.3), ("decode", 0.45), ("union", 0.1))
        self.names = [
            (role, f"{role}-{number}") for role, share in shares for number in range(max(1, round(instances * share)))
        ][:instances]
        self._states = {name: "active" for _, name in self.names}
        for position, state in ((2, "draining"), (5, "inactive"), (7, "initial")):
            if len(self.names) > position + 4:
                self._states[self.names[-position][1]] = state
        self._phases = {name: self._random.random() * 6.28 for _, name in self.names}
        self._requests = [self._request(number) for number in range(_REQUESTS)]

    def fleet(self) -> FleetPicture:
        """As it is now."""
        now = time.time()
        instances = [self._instance(role, name, now) for role, name in self.names]
        point = _point(now)
        return FleetPicture(
            time=now, ready=True, models=["qwen3-vl"], missing=[], degraded=[], workers=4, workers_listening=4,
            connected=True, in_flight=sum(one.in_flight for one in instances),
            load_tokens=sum(one.load_tokens for one in instances), queued=point.queued,
            requests_per_second=point.requests_per_second, failed_per_second=point.failed_per_second,
            first_token_p50=point.first_token_p50, first_token_p95=point.first_token_p95,
            tokens_per_second=point.tokens_per_second, instances=instances,
        )  # fmt: skip

    def series(self, after: float) -> dict[str, Any]:
        """The last quarter of an hour."""
        now = time.time()
        points = [_point(now - INTERVAL * back) for back in range(_POINTS, -1, -1)]
        return {"interval": INTERVAL, "points": [point for point in points if point.time > after]}

    def requests(self, after: float) -> dict[str, Any]:
        """What is over, and a few more each time."""
        for _ in range(self._random.randrange(4) if after else 0):
            self._requests.append(self._request(len(self._requests), time.time()))
        self._requests = self._requests[-_REQUESTS:]
        found = [one for one in reversed(self._requests) if one.ended > after]
        return {"newest": found[0].ended if found else after, "requests": [_short(one) for one in found]}

    def request(self, wanted: str) -> Timeline | None:
        """One of them."""
        return next((one for one in self._requests if one.id == wanted), None)

    def _instance(self, role: str, name: str, now: float) -> InstancePicture:
        wave = 0.5 + 0.5 * math.sin(now / 7 + self._phases[name])
        state = self._states[name]
        serves = state in ("active", "draining")
        flight = round(12 * wave) if serves else 0
        waiting = max(0, flight - 10)
        usage = min(1.0, 0.25 + 0.6 * wave) if serves and role != "encode" else None
        load = flight * (700.0 + 40 * (hash(name) % 7))
        endpoint = EndpointPicture(
            id=f"{name}/0", state="ready" if serves else "gone", in_flight=flight, load_tokens=load,
            running=flight - waiting, waiting=waiting, kv_usage=usage,
        )  # fmt: skip
        return InstancePicture(
            name=name, role=role, state=state, fault="the engine does not answer" if state == "inactive" else "",
            engine="vllm", engine_version="0.12.0", models=["qwen3-vl"], in_flight=flight, load_tokens=load,
            running=flight - waiting, waiting=waiting, kv_usage=usage, endpoints=[endpoint],
        )  # fmt: skip

    def _pick(self, role: str) -> str:
        names = [name for each, name in self.names if each == role] or [self.names[0][1]]
        return self._random.choice(names)

    def _request(self, number: int, ended: float | None = None) -> Timeline:
        draw = self._random
        media = draw.random() < 0.5
        fails = draw.random() < 0.06
        retried = fails or draw.random() < 0.1
        steps: list[TimelineStep] = [self._step("queue", "", 0.0, 0.002 + 0.05 * draw.random() ** 4)]
        at = steps[0].ended or 0.0
        steps += [
            self._step("encode", self._pick("encode"), at, at + 0.05 + 0.2 * draw.random(), item=str(item))
            for item in range(2 if media else 0)
        ]
        at = max(step.ended or 0.0 for step in steps)
        if retried:
            steps.append(self._step("prefill", self._pick("prefill"), at, at + 0.03, outcome="connect"))
            at += 0.08
        steps.append(self._step("prefill", self._pick("prefill"), at, at + 0.06 + 0.4 * draw.random() ** 2))
        at = steps[-1].ended or 0.0
        first = at + 0.02 + 0.05 * draw.random()
        whole = first + 0.3 + 2.5 * draw.random() ** 2
        outcome = "stream_broken" if fails else ""
        steps.append(self._step("decode", self._pick("decode"), at, whole, content=first, outcome=outcome))
        return Timeline(
            id=f"0-0a1b2c3d-{number}", ended=ended or time.time() - 2.0 * (_REQUESTS - number),
            request_id=f"chat-{number}", engine_request_id=f"{draw.getrandbits(128):032x}",
            path="/v1/chat/completions", model="qwen3-vl", stream=True, status=502 if fails else 200,
            outcome="failed" if fails else "answered", reason="stream_broken" if fails else "", seconds=whole,
            first_token_seconds=first,
            legs=[LegInShort(one.leg, one.instance, (one.ended or 0) - (one.began or 0), one.outcome) for one in steps],
            tries=int(retried), followed=True, request_bytes=2400 + 400_000 * media, answer_bytes=0,
            answer_events=round(40 * whole), media_items=2 * media,
            spared=[f"{one.instance}/0" for one in steps if one.outcome], steps=steps, placement=None,
        )  # fmt: skip

    def _step(
        self, leg: str, name: str, began: float, ended: float, content: float | None = None, item: str = "",
        outcome: str = "",
    ) -> TimelineStep:  # fmt: skip
        others = [each for role, each in self.names if role == leg and each != name][:5]
        why = [
            Candidate(f"{each}/0", 1200.0 + 640 * place, each == name, False)
            for place, each in enumerate([name, *others])
        ]
        return TimelineStep(
            leg=leg, endpoint=f"{name}/0" if name else "", instance=name, engine_request_id="5d1c" * 8 if name else "",
            began=began, sent=began + 0.002 if name else None, content=content, ended=ended,
            request_bytes=2400 if name else 0, answer_bytes=0 if content or not name else 310,
            status=200 if name and not outcome else 0, outcome=outcome, item=item, why=why if name else [],
        )  # fmt: skip


def _point(at: float) -> Point:
    rate = 40 + 18 * math.sin(at / 90) + 4 * math.sin(at / 5)
    return Point(
        time=at, requests_per_second=rate, failed_per_second=max(0.0, 3 * math.sin(at / 47) - 1.8),
        first_token_p50=0.24 + 0.05 * math.sin(at / 31), first_token_p95=0.7 + 0.3 * math.sin(at / 61),
        tokens_per_second=4200 + 900 * math.sin(at / 40), queued=max(0, round(9 * math.sin(at / 53) - 5)),
        in_flight=round(60 + 25 * math.sin(at / 90)),
    )  # fmt: skip


def _short(found: Timeline) -> dict[str, Any]:
    return {name: getattr(found, name) for name in FinishedRequest.__struct_fields__}


class PlayedBoard:
    """A server on this machine. Use as a context manager."""

    def __init__(self, fleet: PlayedFleet) -> None:
        self._fleet = fleet
        self._files = page_files()
        board = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                board._answer(self)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/dashboard"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> PlayedBoard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        after = float(parse_qs(parts.query).get("after", ["0"])[0])
        file = self._files.get(parts.path)
        single = re.fullmatch(r"/dashboard/requests/(.+)", parts.path)
        found: Any = None
        if parts.path == "/dashboard/fleet":
            found = self._fleet.fleet()
        elif parts.path == "/dashboard/series":
            found = self._fleet.series(after)
        elif parts.path == "/dashboard/requests":
            found = self._fleet.requests(after)
        elif single:
            found = self._fleet.request(single[1])
        status = 200 if file or found is not None else 404
        body = file.body if file else msgspec.json.encode(found) if found is not None else json.dumps({}).encode()
        request.send_response(status)
        request.send_header("Content-Type", file.kind if file else "application/json")
        request.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items() if file else ():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
