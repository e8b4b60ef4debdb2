"""A KV Conductor process, and those who ask it: a Coordinator's connection in frames, a person over HTTP."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from event_publisher import TOPIC, EventPublisher
from processes import PymotorProcess, wait_until

from free_ports import free_port
from pymotor.control_plane import TOKEN_VARIABLE
from pymotor.fleet import (
    Endpoint,
    EndpointState,
    FleetSnapshot,
    Instance,
    InstanceState,
    KVEvents,
    Role,
    encode_snapshot,
)
from pymotor.fleet.prefix_queries import (
    LENGTH_BYTES,
    PREFACE,
    Followed,
    FromConductor,
    Hello,
    PrefixMatches,
    PrefixQuery,
    PrefixRouted,
)

MODEL = "a-model"
TOKEN = "a-token-for-these-tests"


class ConductorUnderTest:
    """One `pymotor kv-conductor`. Use as a context manager; it can be killed and started in between."""

    def __init__(
        self, directory: Path, *options: str, token: str = TOKEN, fleet: Path | None = None, port: int = 0
    ) -> None:
        """`fleet`: the file that tells it of the fleet; its own by default, which `tell` writes. `port`: 0 is a free
        one."""
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.fleet = fleet or directory / "fleet.json"
        self.token = token
        self._log = directory / "conductor.log"
        teller = () if "--controller" in options else ("--fleet", str(self.fleet))
        self._argv = ["kv-conductor", "--port", str(self.port), *teller, "--log-level", "DEBUG", *options]
        self._process: PymotorProcess | None = None
        self._version = 0

    def __enter__(self) -> ConductorUnderTest:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.end()

    @property
    def process(self) -> PymotorProcess:
        """The one that runs."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = PymotorProcess(self._argv, self._log, {TOKEN_VARIABLE: self.token} if self.token else {})
        self._process.wait_until_ok(f"{self.url}/health")

    # -- its fleet

    def tell(self, *instances: Instance, complete: bool = True) -> None:
        """Write the fleet file."""
        self._version += 1
        snapshot = FleetSnapshot(epoch=1, version=self._version, complete=complete, instances=instances)
        fresh = self.fleet.with_suffix(".new")
        fresh.write_bytes(encode_snapshot(snapshot))
        fresh.rename(self.fleet)

    # -- HTTP

    def get(self, path: str) -> httpx.Response:
        """Ask with the token."""
        return httpx.get(f"{self.url}{path}", headers=self.headers, timeout=60, trust_env=False)

    def post(self, path: str, content: object) -> httpx.Response:
        """Likewise."""
        return httpx.post(f"{self.url}{path}", json=content, headers=self.headers, timeout=60, trust_env=False)

    @property
    def headers(self) -> dict[str, str]:
        """That show the token."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def sources(self) -> dict[str, dict[str, Any]]:
        """All publishers, by `<endpoint> <rank>`."""
        endpoints = self.get("/sources").json()["endpoints"]
        return {f"{one['endpoint']} {source['rank']}": source for one in endpoints for source in one["sources"]}

    def wait_standing(self, source: str, standing: str, why: str = "") -> dict[str, Any]:
        """Wait until a publisher stands so; returns it."""

        found: dict[str, Any] = {}

        def stands() -> bool:
            nonlocal found
            found = self.sources().get(source, {})
            return found.get("standing") == standing and why in found.get("why", "")

        self._wait(stands, f"{source} {standing} {why}")
        # Asked once more it may be gone: a fleet that has just changed is followed anew.
        return found

    def wait_applied(self, source: str, number: int) -> None:
        """Wait until this batch was the last one that counts."""

        def applied() -> bool:
            found = self.sources().get(source, {})
            return found.get("standing") == "live" and found.get("last_sequence") == number

        self._wait(applied, f"batch {number} of {source} is applied")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """Raises `AssertionError` that says how it stands instead."""
        try:
            wait_until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.get('/sources').text}") from None

    def metric(self, name: str) -> float:
        """One figure, with its labels if it has any."""
        lines = self.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"pymotor_kv_conductor_{name} "))


class Asker:
    """One connection of a Coordinator's worker. Use as a context manager."""

    def __init__(self, port: int, token: str = TOKEN, patience: float | None = 60) -> None:
        """Says hello. `patience`: seconds that sending and reading may take; None: for ever."""
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.settimeout(patience)
        self._socket.sendall(PREFACE)
        self._file = self._socket.makefile("rb")
        self._number = 0
        self.followed = Followed([], -1)
        self.send(Hello(token))

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, message: Hello | PrefixQuery | PrefixRouted) -> None:
        """One frame."""
        content = msgspec.msgpack.encode(message)
        self._socket.sendall(len(content).to_bytes(LENGTH_BYTES, "little") + content)

    def send_bytes(self, content: bytes) -> None:
        """Anything."""
        self._socket.sendall(content)

    def read(self) -> Followed | PrefixMatches | None:
        """The next frame; None: the conductor has closed the connection."""
        try:
            length = self._file.read(LENGTH_BYTES)
            content = self._file.read(int.from_bytes(length, "little"))
        except ConnectionError:
            return None
        if not length:
            return None
        message: Followed | PrefixMatches = msgspec.msgpack.decode(content, type=FromConductor)
        if isinstance(message, Followed):
            self.followed = message
        return message

    def query(self, tokens: Sequence[int], **more: Any) -> int:
        """Ask; returns the question's number."""
        self._number += 1
        packed = memoryview(array("I", tokens)).cast("B")
        self.send(PrefixQuery(self._number, more.pop("model", MODEL), packed, **more))
        return self._number

    def answer(self, number: int) -> PrefixMatches:
        """Read until this question is answered; every list of slots comes before what is written by it."""
        while True:
            message = self.read()
            assert message is not None, "the connection was closed"
            if isinstance(message, PrefixMatches):
                assert message.revision == self.followed.revision
                if message.number == number:
                    return message

    def match(self, tokens: Sequence[int], **more: Any) -> dict[str, int]:
        """Tokens that each endpoint holds in any tier, without those that hold nothing."""
        return self.held(self.answer(self.query(tokens, **more)))

    def held(self, matches: PrefixMatches) -> dict[str, int]:
        """An answer, by endpoint."""
        slots, held = array("H", matches.slots), array("I", matches.in_any_tier)
        return {self.followed.endpoints[slot]: n for slot, n in zip(slots, held, strict=True) if n}

    def expected(self, matches: PrefixMatches) -> dict[str, int]:
        """Likewise, with what was just sent there."""
        slots, held = array("H", matches.slots), array("I", matches.expected)
        return {self.followed.endpoints[slot]: n for slot, n in zip(slots, held, strict=True) if n}


def union(number: int, *publishers: EventPublisher, url: str, **changes: Any) -> Instance:
    """A union instance with one endpoint, whose ranks publish there."""
    events = tuple(
        KVEvents(rank=one.rank, port=one.port, replay_port=one.replay_port, topic=TOPIC.decode()) for one in publishers
    )
    endpoint = Endpoint(id=f"union-{number}/0", url=url, state=EndpointState.READY, kv_events=events)
    settings = {"state": InstanceState.ACTIVE, "models": (MODEL,), **changes}
    return Instance(name=f"union-{number}", role=Role.UNION, engine="sim", endpoints=(endpoint,), **settings)
