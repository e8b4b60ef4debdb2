"""Puts a simulated engine together from its options, runs it, and takes it apart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable

from pymotor.engines.sim import tokenizer
from pymotor.engines.sim.about import About, Served
from pymotor.engines.sim.answering import Answering
from pymotor.engines.sim.api import Application, Handler, generating_routes
from pymotor.engines.sim.cache_events import CacheEvents
from pymotor.engines.sim.completions import Completions
from pymotor.engines.sim.control import Control
from pymotor.engines.sim.core import EngineCore
from pymotor.engines.sim.core_types import CoreOptions
from pymotor.engines.sim.driver import EngineDriver
from pymotor.engines.sim.ec_connector import ECConnector
from pymotor.engines.sim.ending import hear_signals
from pymotor.engines.sim.faults import Faults
from pymotor.engines.sim.kv_connector import KVConnector
from pymotor.engines.sim.kv_event_encoding import EventEncoder
from pymotor.engines.sim.kv_event_publisher import KVEventPublisher
from pymotor.engines.sim.media import MediaReader
from pymotor.engines.sim.messages import Messages
from pymotor.engines.sim.metrics import EngineMetrics
from pymotor.engines.sim.options import EngineOptions, OptionError
from pymotor.engines.sim.pooling import Pooling
from pymotor.engines.sim.pooling_input import PoolingInput
from pymotor.engines.sim.prompts import PromptBuilder
from pymotor.engines.sim.responses_api import Responses
from pymotor.engines.sim.responses_store import VARIABLE, ResponsesStore
from pymotor.engines.sim.server_tls import ServerContext
from pymotor.engines.sim.token_generation import TokenGeneration
from pymotor.engines.sim.transport import HTTPServer
from pymotor.fleet.dialects import handing_connector

log = logging.getLogger("pymotor.sim")

VERSION = "0.32.0+sim"
STOP_SECONDS = 5.0


async def serve(options: EngineOptions) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status. Raises `OSError` when a port is taken.

    After the signal the process has `STOP_SECONDS`: then it says where it is stuck and exits with 1. A second signal
    ends it at once. `hold_signals_back` comes first.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(stopped.set)

    hear_signals(stop, STOP_SECONDS)
    engine = SimulatedEngine(options)
    try:
        port = await engine.start()
        scheme = "http" if options.tls is None else "https"
        print(f"pymotor sim-engine ready on {scheme}://{options.host}:{port}", flush=True)
        await stopped.wait()
    finally:
        await engine.stop()
    return 0


class SimulatedEngine:
    """One engine: core, driver, connectors and HTTP server. `stop` releases all of it."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._kv: KVConnector | None = None
        self._ec: ECConnector | None = None
        self._events: KVEventPublisher | None = None
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
        kv_layout = _kv_layout(options)
        self._kv = KVConnector(options, engine_id, kv_layout)
        await self._kv.start()
        self._ec = ECConnector(options, faults, self._remembers)
        await self._ec.start()
        self._events = _event_publisher(options, faults)
        events = None
        if self._events is not None:
            self._events.start()
            events = CacheEvents()
        core = _core(options, engine_id, self._kv, self._ec, events)
        metrics = EngineMetrics(options.served_names[0])
        driver = EngineDriver(core, speed=options.speed, layout=kv_layout, metrics=metrics, faults=faults)
        driver.exchange = self._ec.exchange
        self._driver = driver
        if self._events is not None and events is not None:
            driver.publish = _publishing(self._events, events)
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
            adapters=options.adapters,
        )
        embeds_enabled = options.enable_mm_embeds or self._ec.consumes or bool(options.kv_transfer)
        media = MediaReader(options.model, options.allowed_local_media_path, embeds_enabled)
        prompts = PromptBuilder(media, options.max_model_len, options.adapters, seed=options.seed)
        event_sources = {} if self._events is None else self._events.sources
        event_ports = {} if self._events is None else self._events.ports
        answering = Answering(served, driver, faults, self._refuse)
        application = Application(
            About(served, driver, prompts, metrics, event_sources),
            answering,
            self._routes(answering, prompts),
            Control(driver, faults, {**self._kv.ports, **self._ec.ports, **event_ports}) if options.control else None,
            api_keys=options.api_keys,
            echo_request_id=options.request_id_headers,
        )
        self._server = HTTPServer(application, tls=_server_context(options))
        return await self._server.listen(options.host, options.port)

    def _routes(self, answering: Answering, prompts: PromptBuilder) -> dict[tuple[str, str], Handler]:
        options = self._options
        if options.task != "generate":
            return Pooling(answering, PoolingInput(prompts), options.task, options.num_labels).routes()
        responses = Responses(answering, prompts, self._responses_store)
        tokens = TokenGeneration(answering, prompts, options.max_model_len, enabled=options.scale_out)
        return {
            **generating_routes(Completions(answering, prompts), Messages(answering, prompts), responses),
            ("POST", "/inference/v1/generate"): tokens.generate,
        }

    async def stop(self) -> None:
        """End everything at once."""
        if self._server is not None:
            self._server.close()
        await self._responses_store.stop()
        if self._kv is not None:
            await self._kv.stop()
        if self._ec is not None:
            await self._ec.stop()
        if self._driver is not None:
            await self._driver.stop()
        if self._events is not None:
            await self._events.stop()

    def _remembers(self, identifier: str) -> bool:
        return self._driver is not None and identifier in self._driver.core.encoder_cache

    async def _refuse(self, seconds: float) -> None:
        if self._server is not None:
            await self._server.refuse(seconds)


def _server_context(options: EngineOptions) -> ServerContext | None:
    """Raises `OptionError`."""
    if options.tls is None:
        return None
    try:
        return ServerContext(options.tls)
    except OSError as error:
        raise OptionError(f"--ssl-certfile, --ssl-keyfile or --ssl-ca-certs cannot be used: {error}") from error


def _kv_layout(options: EngineOptions) -> str:
    """What both sides of a handoff must have in common. MooncakeLayerwiseConnector compares no model paths."""
    layout = f"block_size={options.block_size}"
    if handing_connector(options.kv_transfer).get("kv_connector") == "MooncakeLayerwiseConnector":
        return layout
    return f"{options.model}/{layout}"


def _event_publisher(options: EngineOptions, faults: Faults) -> KVEventPublisher | None:
    """What tells KV events; None where none are wanted. vLLM collects none without prefix caching, and says nothing."""
    config = options.kv_events
    if not config.enabled:
        return None
    as_bytes = os.environ.get("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "1") == "0"
    encoder = EventEncoder(options.kv_events_form, options.block_size, hashes_as_bytes=as_bytes)
    address = os.environ.get("VLLM_HOST_IP") or "127.0.0.1"
    try:
        return KVEventPublisher(config, encoder, faults, rank=options.data_parallel_rank, node_address=address)
    except ValueError as error:
        raise OptionError(str(error)) from error


def _publishing(publisher: KVEventPublisher, events: CacheEvents) -> Callable[[], None]:
    return lambda: publisher.publish(events.take())


def _core(
    options: EngineOptions, engine_id: str, kv: KVConnector, ec: ECConnector, events: CacheEvents | None
) -> EngineCore:
    core_options = CoreOptions(
        num_blocks=options.num_blocks,
        block_size=options.block_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        prefix_caching=options.prefix_caching,
        encode_only=ec.produces and not ec.consumes,
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
        embeddings=ec.store,
        produces_embeddings=ec.produces,
        consumes_embeddings=ec.consumes,
        kv_store=kv.store,
        announce=ec.announce,
        events=events,
    )
