"""One encode, one prefill, one decode and one plain union engine, started as PyMotor starts engines.

The same four for the simulated engine and for real vLLM: planned by `plan_instance`, run by `EngineProcess`, serving
the same tiny model, so that one suite of tests can ask both.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
import pytest

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.user import DEPLOY_LETTER
from pymotor.engines import EngineProcess, EngineStartError, HostResources, InstancePlan, plan_instance
from pymotor.engines.port_claims import PortClaims
from pymotor.engines.tiny_model import make_tiny_model
from pymotor.engines.vllm_python import NoVllmError, find_vllm_python
from pymotor.fleet import Role

CHECKOUT = Path(__file__).resolve().parents[1]
MODEL = "qwenvl"
MAX_MODEL_LEN = 4096
BLOCK_TOKENS = 128
LEASE_SECONDS = 120
"""A busy machine can take longer than vLLM's 30 for the first handshake of a pair. Not more than needed: as long as a
lease runs, prefill's worker polls for its reader and keeps a processor busy."""
START_SECONDS = {"sim": 60.0, "vllm": 600.0}
REQUIRE_VLLM = "PYMOTOR_REQUIRE_VLLM"

EngineKind = Literal["sim", "vllm"]


@dataclass(frozen=True)
class EnginesUnderTest:
    """The four engines of one kind, all ready."""

    kind: EngineKind
    plans: dict[Role, InstancePlan]
    user: UserConfig
    """The configuration they were planned from."""
    processes: dict[Role, EngineProcess]
    directory: Path
    store: Path
    """Where embeddings are handed over."""

    def url(self, role: Role) -> str:
        """Base URL of the engine with this role."""
        return self.plans[role].servers[0].endpoint.url

    @property
    def encode(self) -> str:
        return self.url(Role.ENCODE)

    @property
    def prefill(self) -> str:
        return self.url(Role.PREFILL)

    @property
    def decode(self) -> str:
        return self.url(Role.DECODE)

    @property
    def union(self) -> str:
        """The plain engine: no connector, the reference answer."""
        return self.url(Role.UNION)


KV_EVENTS = {"enable_kv_cache_events": True, "publisher": "zmq", "replay_endpoint": "tcp://*:5558"}


def engine_config(kind: EngineKind, model: Path) -> dict[str, Any]:
    """user_config.json for 1E1P1D and a union, all serving `model` under the name `qwenvl`."""
    common: dict[str, Any] = {
        "model": str(model),
        "served_model_name": MODEL,
        "dtype": "float32",
        "block_size": BLOCK_TOKENS,
        "enforce_eager": True,
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": 16,
        "max_num_batched_tokens": MAX_MODEL_LEN,
        "enable_request_id_headers": True,
    }

    def embeddings(role: str) -> dict[str, Any]:
        return {"ec_transfer_config": {"ec_connector": "ECExampleConnector", "ec_role": role}}

    def kv(role: str) -> dict[str, Any]:
        return {
            "kv_transfer_config": {
                "kv_connector": "NixlConnector",
                "kv_role": role,
                "kv_buffer_device": "cpu",
                "kv_connector_extra_config": {"kv_lease_duration": LEASE_SECONDS},
            },
        }

    options = {
        "encode": {**common, "enable_prefix_caching": False, **embeddings("ec_producer")},
        "prefill": {**common, **embeddings("ec_consumer"), **kv("kv_producer")},
        "decode": {**common, **kv("kv_consumer")},
        "union": {**common, "kv_events_config": KV_EVENTS},
    }
    return {
        "version": "v2.0",
        "motor_deploy_config": {
            "hardware_type": "cpu",
            **{f"{DEPLOY_LETTER[role]}_instances_num": 1 for role in options},
        },
        "motor_controller_config": {},
        "motor_coordinator_config": {},
        **{f"motor_engine_{role}_config": {"engine_type": kind, "engine_config": options[role]} for role in options},
    }


@contextmanager
def running_engines(kind: EngineKind, directory: Path, python: str = "") -> Iterator[EnginesUnderTest]:
    """The four engines for the length of a `with` block; nothing of them lives after it.

    `python`: the interpreter that has vLLM. Raises `EngineStartError` with the end of an engine's log.
    """
    model = directory / "tiny-qwen3-vl"
    make_tiny_model(model)
    store = directory / "embeddings"
    store.mkdir()
    user = UserConfig.model_validate(engine_config(kind, model))
    with port_claims() as claims:
        host = HostResources(python=python or sys.executable, shared_directory=store, port_is_free=claims.claim_unbound)
        plans = {role: plan_instance(user, EnvConfig(), role, 0, host) for role in Role}
        processes = {
            role: EngineProcess(plan.servers[0], directory / f"{plan.servers[0].name}.log", START_SECONDS[kind])
            for role, plan in plans.items()
        }
        with _running(list(processes.values())):
            yield EnginesUnderTest(kind, plans, user, processes, directory, store)


@contextmanager
def one_more_decode(engines: EnginesUnderTest) -> Iterator[str]:
    """The URL of a further decode engine like the first, for tests that it may not survive."""
    with more_engines(engines, [(Role.DECODE, {})]) as (decode,):
        yield decode.plan.servers[0].endpoint.url


@dataclass(frozen=True)
class ExtraEngine:
    """An engine beside the four."""

    plan: InstancePlan
    process: EngineProcess

    @property
    def url(self) -> str:
        """Base URL."""
        return self.plan.servers[0].endpoint.url

    def kill(self) -> None:
        """SIGKILL the server, as the kernel does when memory is short; what it started lives on for a while."""
        argv = list(self.plan.servers[0].argv)
        for process in psutil.Process().children(recursive=True):
            if process.cmdline() == argv:
                process.kill()
                return
        raise ProcessLookupError(" ".join(argv))


@contextmanager
def more_engines(
    engines: EnginesUnderTest, wanted: Sequence[tuple[Role, Mapping[str, Any]]]
) -> Iterator[tuple[ExtraEngine, ...]]:
    """Further engines for the length of a `with` block, each like the first of its role but for these options."""
    content = engine_config(engines.kind, engines.directory / "tiny-qwen3-vl")
    with port_claims() as claims:
        python = engines.processes[Role.DECODE].plan.argv[0]
        host = HostResources(python=python, shared_directory=engines.store, port_is_free=claims.claim_unbound)
        extra = []
        for index, (role, options) in enumerate(wanted, 1):
            section = content[f"motor_engine_{role.value}_config"]
            changed = {**section, "engine_config": {**section["engine_config"], **options}}
            user = UserConfig.model_validate({**content, f"motor_engine_{role.value}_config": changed})
            plan = plan_instance(user, EnvConfig(), role, index, host)
            log = engines.directory / f"{plan.servers[0].name}-{len(list(engines.directory.iterdir()))}.log"
            extra.append(ExtraEngine(plan, EngineProcess(plan.servers[0], log, START_SECONDS[engines.kind])))
        with _running([engine.process for engine in extra]):
            yield tuple(extra)


@contextmanager
def port_claims() -> Iterator[PortClaims]:
    """Ports that no other session of tests and no fleet takes meanwhile."""
    claims = PortClaims()
    try:
        yield claims
    finally:
        claims.close()


@contextmanager
def _running(processes: Sequence[EngineProcess]) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(_start(processes))
        yield
    finally:
        loop.run_until_complete(_stop(processes))
        loop.close()


async def _start(processes: Sequence[EngineProcess]) -> None:
    for process in processes:
        await process.start()
    waits = [asyncio.create_task(process.wait_ready()) for process in processes]
    try:
        await asyncio.gather(*waits)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _stop(processes: Sequence[EngineProcess]) -> None:
    await asyncio.gather(*(process.stop(grace=15.0) for process in processes))


def vllm_python_or_skip() -> str:
    """The interpreter that has vLLM, found as `pymotor up` finds it.

    Skips the test, or fails it with `PYMOTOR_REQUIRE_VLLM=1`, where there is none.
    """
    try:
        return find_vllm_python(CHECKOUT).python
    except NoVllmError as error:
        message = f"REAL vLLM IS NOT TESTED: {error}"
    if os.environ.get(REQUIRE_VLLM) == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def metric(url: str, name: str) -> float:
    """The sum over all label sets of one counter or gauge of an engine. Raises KeyError when it has none."""
    values = [
        float(line.rpartition(" ")[2])
        for line in httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
        if line.startswith((f"{name} ", f"{name}{{"))
    ]
    if not values:
        raise KeyError(f"{url}/metrics has no {name}")
    return sum(values)


__all__ = [
    "BLOCK_TOKENS",
    "MAX_MODEL_LEN",
    "MODEL",
    "EngineKind",
    "EngineStartError",
    "EnginesUnderTest",
    "ExtraEngine",
    "engine_config",
    "metric",
    "more_engines",
    "one_more_decode",
    "port_claims",
    "running_engines",
    "vllm_python_or_skip",
]
