"""An engine's connector: which dialect it speaks, and the ports where other engines find it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymotor.engines.sim.bootstrap import BootstrapServer
from pymotor.engines.sim.handoffs import Handoffs
from pymotor.engines.sim.options import EngineOptions, OptionError
from pymotor.engines.sim.side_channel import KVPeer, SideChannel
from pymotor.engines.sim.stores import DirectoryKVStore
from pymotor.fleet.dialects import KVDialect, handing_connector, handoff_seconds, kv_dialect

_NIXL = ("NixlConnector", "NixlPullConnector", "NixlPushConnector")
_BOOTSTRAP_PORT = 8998


class KVConnector:
    """What `--kv-transfer-config` and SGLang's `--disaggregation-…` flags make of an engine.

    Raises `OptionError` for a connector that is not simulated.
    """

    def __init__(self, options: EngineOptions, engine_id: str, layout: str) -> None:
        self._options = options
        self._config = handing_connector(options.kv_transfer)
        self._name = str(self._config.get("kv_connector") or "")
        self._engine_id = engine_id
        self._side_channel = SideChannel(engine_id, layout)
        self._bootstrap: BootstrapServer | None = None
        self.sglang_mode = options.disaggregation_mode
        self.dialect = KVDialect.PAIRED if self.sglang_mode else _dialect(self._name)
        self.address: tuple[str, int] | None = None
        """Where other engines reach this one."""
        self.ports: dict[str, int] = {}
        """Ports that are listened on, by what they are for."""

    @property
    def handoffs(self) -> Handoffs:
        """How requests' parameters are read."""
        return Handoffs(self.dialect, self.sglang_mode, str(self._config.get("kv_role")))

    @property
    def lease_seconds(self) -> float:
        """For how long prefill keeps KV that nobody wanted yet."""
        if self.sglang_mode:
            return _seconds("SGLANG_DISAGGREGATION_WAITING_TIMEOUT", 300)
        default = handoff_seconds(self._name) or 30.0
        if "Mooncake" in self._name:
            return _seconds("VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT", default)
        return float(extra_config(self._config, "kv_connector_extra_config").get("kv_lease_duration", default))

    @property
    def store(self) -> DirectoryKVStore | None:
        """The directory of ExampleConnector."""
        if self.dialect is not KVDialect.STORE:
            return None
        path = extra_config(self._config, "kv_connector_extra_config").get("shared_storage_path", "/tmp")  # noqa: S108 - vLLM's default
        return DirectoryKVStore(Path(str(path)), self._options.block_size)

    async def start(self) -> None:
        """Listen. Raises `OSError` when a port is taken."""
        if self.dialect in (None, KVDialect.STORE):
            return
        host, port = self._wanted_address()
        self.address = host, await self._side_channel.start(host, port)
        self.ports["side_channel"] = self.address[1]
        wanted = self._bootstrap_port()
        if wanted is not None:
            self._bootstrap = BootstrapServer(self._engine_id, self.address)
            self.ports["bootstrap"] = await self._bootstrap.start(self._options.host, wanted)

    def serve(self, peer: KVPeer) -> None:
        """Answer other engines from now on."""
        self._side_channel.peer = peer

    async def stop(self) -> None:
        """Close all listeners and connections."""
        if self._bootstrap is not None:
            self._bootstrap.stop()
        await self._side_channel.stop()

    def _wanted_address(self) -> tuple[str, int]:
        if self._name in _NIXL:
            host = os.environ.get("VLLM_NIXL_SIDE_CHANNEL_HOST", "localhost")
            return host, int(os.environ.get("VLLM_NIXL_SIDE_CHANNEL_PORT", "0"))
        # vllm-ascend takes the node's address; its guides say it by HCCL_IF_IP.
        host = os.environ.get("VLLM_HOST_IP") or os.environ.get("HCCL_IF_IP") or "127.0.0.1"
        if self.dialect is KVDialect.PAIRED or self._config.get("kv_role") == "kv_producer":
            return host, 0  # found through the bootstrap server or by nobody
        return host, int(self._config.get("kv_port", 0))

    def _bootstrap_port(self) -> int | None:
        """The port of the bootstrap server; None where this engine has none."""
        if self.sglang_mode == "prefill":
            return self._options.disaggregation_bootstrap_port
        if self.sglang_mode is None and self.dialect is KVDialect.PAIRED:
            if self._config.get("kv_role") == "kv_consumer":
                return None
            return int(os.environ.get("VLLM_MOONCAKE_BOOTSTRAP_PORT", _BOOTSTRAP_PORT))
        return None


def extra_config(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The options of a connector's own."""
    extra = config.get(name)
    return extra if isinstance(extra, Mapping) else {}


def _dialect(connector: str) -> KVDialect | None:
    if not connector:
        return None
    dialect = kv_dialect(connector)
    if dialect is None or (dialect is KVDialect.STORE and connector != "ExampleConnector"):
        raise OptionError(
            f"the simulated engine does not speak {connector}; use NixlConnector, MooncakeConnector, "
            f"MooncakeLayerwiseConnector or ExampleConnector"
        )
    return dialect


def _seconds(variable: str, default: float) -> float:
    return float(os.environ.get(variable, default))
