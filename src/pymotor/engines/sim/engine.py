"""Puts a simulated engine together from its options, runs it, and takes it apart."""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import logging
import os
import signal
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.about import About, Served
from pymotor.engines.sim.answering import Answering
from pymotor.engines.sim.api import Application, Handler, generating_routes
from pymotor.engines.sim.completions import Completions
from pymotor.engines.sim.control import Control
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import CoreOptions
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.faults import Faults
from pymotor.engines.sim.handoff_faults import FaultyEmbeddingStore
from pymotor.engines.sim.kv_connector import KVConnector, extra_config
from pymotor.engines.sim.media import MediaReader
from pymotor.engines.sim.messages import Messages
from pymotor.engines.sim.metrics import EngineMetrics
from pymotor.engines.sim.options import EngineOptions, OptionError
from pymotor.engines.sim.pooling import Pooling
from pymotor.engines.sim.pooling_input import PoolingInput
from pymotor.engines.sim.prompts import PromptBuilder
from pymotor.engines.sim.responses_api import Responses
from pymotor.engines.sim.responses_store import VARIABLE, ResponsesStore
from pymotor.engines.sim.stores import DirectoryEmbeddingStore
from pymotor.engines.sim.transport import HTTPServer
from pymotor.fleet.dialects import ECDialect, ec_dialect

log = logging.getLogger("pymotor.sim")

VERSION = "0.32.0+sim"
STOP_SECONDS = 5.0


async def serve(options: EngineOptions) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status. Raises `OSError` when a port is taken.

    After the signal the process has `STOP_SECONDS`: then it says where it is stuck and exits with 1. A second signal
    ends it at once.
    """
    stopped = asyncio.Event()
    _end_on_signals(asyncio.get_running_loop(), stopped)
    engine = SimulatedEngine(options)
    try:
        port = await engine.start()
        print(f"pymotor sim-engine ready on http://{options.host}:{port}", flush=True)
        await stopped.wait()
    finally:
        await engine.stop()
    return 0


def _end_on_signals(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Not by the loop's own signal handlers: a loop that is stuck never calls them."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def end(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        faulthandler.dump_traceback_later(STOP_SECONDS, exit=True)
        loop.call_soon_threadsafe(stopped.set)

    for number in numbers:
        signal.signal(number, end)


class SimulatedEngine:
    """One engine: core, driver, connectors and HTTP server. `stop` releases all of it."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._kv: KVConnector | None = None
        self._driver: EngineDriver | None = None
        self._server: HTTPServer | None = None
        self._responses_store = ResponsesStore(enabled=os.environ.get(VARIABLE, "0") == "1")

    async def start(self) -> int:
        """Listen; returns the HTTP port. Raises `OSError` when a port is taken, `OptionError` for a connector
        that is not simulated."""
        options = self._options
        faults = Faults(options.faults)
        layout = f"{options.model}/block_size={options.block_size}"
        engine_id = str(options.kv_transfer.get("engine_id") or uuid.uuid4())
        self._kv = KVConnector(options, engine_id, layout)
        await self._kv.start()
        core = _core(options, engine_id, self._kv, faults)
        metrics = EngineMetrics(options.served_names[0])
        driver = EngineDriver(core, speed=options.speed, layout=layout, metrics=metrics, faults=faults)
        self._driver = driver
        self._kv.serve(driver.transfers)
        served = Served(
            model=options.model,
            names=options.served_names,
            version=VERSION,
            max_model_len=options.max_model_len,
            fingerprint=f"vllm-{VERSION}-{hashlib.sha256(layout.encode()).hexdigest()[:8]}",
            prompt_tokens_details=options.prompt_tokens_details,
            created=int(time.time()),
            data_parallel_size=options.data_parallel_size,
        )
        embeds_enabled = options.enable_mm_embeds or _consumes_embeddings(options) or bool(options.kv_transfer)
        media = MediaReader(options.model, options.allowed_local_media_path, embeds_enabled)
        prompts = PromptBuilder(media, options.max_model_len)
        answering = Answering(served, driver, faults, self._refuse)
        application = Application(
            About(served, driver, prompts, metrics),
            answering,
            self._routes(answering, prompts),
            Control(driver, faults, self._kv.ports) if options.control else None,
            api_keys=options.api_keys,
            echo_request_id=options.request_id_headers,
        )
        self._server = HTTPServer(application)
        return await self._server.listen(options.host, options.port)

    def _routes(self, answering: Answering, prompts: PromptBuilder) -> dict[tuple[str, str], Handler]:
        options = self._options
        if options.task != "generate":
            return Pooling(answering, PoolingInput(prompts), options.task, options.num_labels).routes()
        responses = Responses(answering, prompts, self._responses_store)
        return generating_routes(Completions(answering, prompts), Messages(answering, prompts), responses)

    async def stop(self) -> None:
        """End everything at once."""
        if self._server is not None:
            self._server.close()
        await self._responses_store.stop()
        if self._kv is not None:
            await self._kv.stop()
        if self._driver is not None:
            await self._driver.stop()

    async def _refuse(self, seconds: float) -> None:
        if self._server is not None:
            await self._server.refuse(seconds)


def _core(options: EngineOptions, engine_id: str, kv: KVConnector, faults: Faults) -> EngineCore:
    embeddings = _embedding_store(options.ec_transfer)
    encode_only = options.ec_transfer.get("ec_role") == "ec_producer"
    core_options = CoreOptions(
        num_blocks=options.num_blocks,
        block_size=options.block_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        prefix_caching=options.prefix_caching,
        encode_only=encode_only,
        engine_id=engine_id,
        side_channel=kv.address,
        kv_lease_seconds=kv.lease_seconds,
        connector_timeout_seconds=float(os.environ.get("VLLM_MOONCAKE_CONNECTOR_TIMEOUT", "30")),
        handoffs=kv.handoffs,
        eos_token=tokenizer.EOS,
    )
    return EngineCore(
        core_options,
        options.profile,
        embeddings=None if embeddings is None else FaultyEmbeddingStore(embeddings, faults),
        produces_embeddings=options.ec_transfer.get("ec_role") in ("ec_producer", "ec_both"),
        consumes_embeddings=_consumes_embeddings(options),
        kv_store=kv.store,
    )


def _consumes_embeddings(options: EngineOptions) -> bool:
    return options.ec_transfer.get("ec_role") in ("ec_consumer", "ec_both")


def _embedding_store(config: Mapping[str, Any]) -> DirectoryEmbeddingStore | None:
    connector = config.get("ec_connector")
    if connector is None:
        return None
    if ec_dialect(str(connector)) is not ECDialect.STORE:
        raise OptionError(f"the simulated engine does not speak {connector} yet; use ECExampleConnector")
    if config.get("ec_role") not in ("ec_producer", "ec_consumer", "ec_both"):
        raise OptionError("ec_role in --ec-transfer-config must be ec_producer, ec_consumer or ec_both")
    path = extra_config(config, "ec_connector_extra_config").get("shared_storage_path", "/tmp")  # noqa: S108 - vLLM's default
    return DirectoryEmbeddingStore(Path(str(path)))
