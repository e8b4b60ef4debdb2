"""An engine's encoder-cache connector: where its embeddings go and where those of others come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymotor.engines.sim.core_types import EmbeddingStore
from pymotor.engines.sim.embedding_pull import EmbeddingPull
from pymotor.engines.sim.embedding_push import EmbeddingPush
from pymotor.engines.sim.embedding_shelf import EmbeddingShelf
from pymotor.engines.sim.faults import Faults
from pymotor.engines.sim.handoff_faults import FaultyEmbeddingStore
from pymotor.engines.sim.kv_connector import extra_config
from pymotor.engines.sim.options import EngineOptions, OptionError
from pymotor.engines.sim.requests import MediaItem, Request
from pymotor.engines.sim.stores import DirectoryEmbeddingStore
from pymotor.fleet.dialects import ECDialect, ec_dialect

_WAIT_SECONDS = 60.0


class ECConnector:
    """What `--ec-transfer-config` makes of an engine. `has` says what is in its encoder cache.

    Raises `OptionError` for a connector that is not simulated and for a configuration vLLM refuses.
    """

    def __init__(self, options: EngineOptions, faults: Faults, has: Callable[[str], bool]) -> None:
        self._config = options.ec_transfer
        self._extra = extra_config(self._config, "ec_connector_extra_config")
        self._options = options
        role = self._config.get("ec_role")
        name = self._config.get("ec_connector")
        if name is not None and role not in ("ec_producer", "ec_consumer", "ec_both"):
            raise OptionError("ec_role in --ec-transfer-config must be ec_producer, ec_consumer or ec_both")
        self.produces = role in ("ec_producer", "ec_both")
        self.consumes = role in ("ec_consumer", "ec_both")
        self.store: EmbeddingStore | None = None
        """What the core reads and writes."""
        self.exchange: EmbeddingPull | EmbeddingPush | None = None
        """What moves embeddings between engines, where a directory does not."""
        self.ports: dict[str, int] = {}
        """Ports that are listened on, by what they are for."""
        dialect = None if name is None else ec_dialect(str(name))
        if name is not None and dialect is None:
            raise OptionError(
                f"the simulated engine does not speak {name}; use ECExampleConnector, ECCPUConnector or "
                f"ECMooncakeConnector"
            )
        self._dialect = dialect
        if dialect is ECDialect.STORE:
            path = self._extra.get("shared_storage_path", "/tmp")  # noqa: S108 - vLLM's default
            self.store = FaultyEmbeddingStore(DirectoryEmbeddingStore(Path(str(path))), faults)
        elif dialect is ECDialect.PULL:
            self._pull(faults)
        elif dialect is ECDialect.PUSH:
            self._push(faults, has)

    def announce(self, item: MediaItem, request: Request) -> dict[str, Any] | None:
        """What an encoder's answer says of an item; None for nothing at all."""
        if self.exchange is not None:
            return self.exchange.announce(item, request)
        return {"metadata": item.metadata} if self._dialect is not ECDialect.PULL else None

    async def start(self) -> None:
        """Listen. Raises `OSError` when a port is taken."""
        if isinstance(self.exchange, EmbeddingPull) and self.produces:
            host = os.environ.get("VLLM_EC_SIDE_CHANNEL_HOST", "localhost")
            port = int(os.environ.get("VLLM_EC_SIDE_CHANNEL_PORT", "5601"))
            self.ports["ec"] = await self.exchange.start(host, port)
        if isinstance(self.exchange, EmbeddingPush) and self.consumes:
            host, port = str(self._config.get("ec_ip", "127.0.0.1")), int(self._config.get("ec_port", 14579))
            self.ports["ec"] = await self.exchange.start(host, port)

    async def stop(self) -> None:
        """Close all listeners and connections."""
        if self.exchange is not None:
            await self.exchange.stop()

    def _pull(self, faults: Faults) -> None:
        bytes_per_token = self._options.profile.embedding_bytes_per_token
        try:
            capacity = int(self._extra["ec_cpu_bytes"]) // bytes_per_token
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError("ECCPUConnector needs ec_cpu_bytes in ec_connector_extra_config") from error
        shelf = EmbeddingShelf(capacity)
        self.store = FaultyEmbeddingStore(shelf, faults)
        if str(self._extra.get("ec_enable_nixl", False)).strip().lower() in ("true", "1", "yes"):
            self.exchange = EmbeddingPull(shelf, self._options.model, bytes_per_token, _WAIT_SECONDS, faults)

    def _push(self, faults: Faults, has: Callable[[str], bool]) -> None:
        shelf = EmbeddingShelf(4 * self._options.max_num_batched_tokens)
        self.store = shelf if self.consumes else None
        wait = float(self._extra.get("push_wait_timeout_s", _WAIT_SECONDS))
        self.exchange = EmbeddingPush(shelf, self._options.model, wait, faults, consumes=self.consumes, has=has)
