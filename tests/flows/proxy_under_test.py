"""`pymotor proxy`, or an example proxy, as a process before simulated engines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import plain_http
from fleet_under_test import EXAMPLES, Engine, Engines
from processes import PymotorProcess, wait_until

from free_ports import free_port
from pymotor.fleet import Role

SCRIPTS = {
    "load_balance_proxy_server_example": "disaggregated_prefill_v1",
    "load_balance_proxy_layerwise_server_example": "disaggregated_prefill_v1",
    "epd_load_balance_proxy_layerwise_server_example": "epd_disaggregated",
    "disagg_epd_proxy": "online_serving/disaggregated_encoder",
}
"""The example proxies and their directories."""

_FLAGS = {Role.ENCODE: "encoder", Role.PREFILL: "prefiller", Role.DECODE: "decoder", Role.UNION: "pd"}


def script(name: str) -> Path:
    """The file of an example proxy."""
    return EXAMPLES / SCRIPTS[name] / f"{name}.py"


def flags_for(engines: Sequence[Engine]) -> list[str]:
    """`--decoder-hosts 127.0.0.1 --decoder-ports …` and so on; one host for all ports."""
    words: list[str] = []
    for role, name in _FLAGS.items():
        ports = [str(engine.port) for engine in engines if (engine.role or Role.UNION) is role]
        if ports:
            words += [f"--{name}-hosts", "127.0.0.1", f"--{name}-ports", *ports]
    return words


class Proxy:
    """A running proxy."""

    def __init__(self, url: str, process: PymotorProcess) -> None:
        self.url = url
        self.process = process

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """One request; with a `body` as JSON."""
        return plain_http.request(method, self.url + path, json=body, headers=headers, timeout=60)

    def counts(self) -> dict[str, Any]:
        """`/healthcheck`."""
        found: dict[str, Any] = self.ask("GET", "/healthcheck").json()
        return found

    def wait_for(self, **counts: int) -> None:
        """Wait until `/healthcheck` counts so many instances that get requests: `decode=2`."""
        wanted = {f"{role}_instances": count for role, count in counts.items()}
        wait_until(lambda: wanted.items() <= self.counts().items(), f"the proxy has {counts}")

    def instances(self) -> dict[str, dict[str, Any]]:
        """`GET /instances`, by name."""
        return {found["name"]: found for found in self.ask("GET", "/instances").json()["instances"]}

    def assert_idle(self) -> None:
        """Wait until nothing is charged."""
        wait_until(
            lambda: all(not one["in_flight"] and not one["load_tokens"] for one in self.instances().values()),
            "nothing is in flight",
        )


_WITHIN_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))
from pymotor.cli import main
sys.exit(main())
"""


@contextlib.contextmanager
def running_proxy(
    directory: Path,
    *flags: str,
    example: str = "",
    environment: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    serving: bool = True,
    most_files: int = 0,
) -> Iterator[Proxy]:
    """A proxy for the length of the block, once it serves a model, or else once it answers; `example` is one of
    `SCRIPTS`, run from a directory that is not its own. `most_files`: how many its processes may open each."""
    port = free_port()
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{port}"
    argv = ["--port", str(port), "--health-interval", "0.2", *flags]
    program = (str(script(example)),) if example else ("-m", "pymotor", "proxy")
    if most_files:
        program = ("-c", _WITHIN_FILES.format(most_files), "proxy")
    process = PymotorProcess(argv, directory / f"proxy-{port}.log", environment, program)
    try:
        process.wait_until_ok(f"{url}/healthcheck" if serving else f"{url}/liveness")
        yield Proxy(url, process)
    finally:
        process.end()


def refused_usage(*flags: str, example: str = "") -> str:
    """What a command line that cannot be right is answered with. Raises `AssertionError` if it is taken, or with a
    status other than 2."""
    program = [str(script(example))] if example else ["-m", "pymotor", "proxy"]
    ended = subprocess.run(
        [sys.executable, *program, *flags], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


def urls(engines: Engines, *names: str) -> str:
    """The URLs of engines, separated by commas."""
    return ",".join(engines[name].url for name in names)
