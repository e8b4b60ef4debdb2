"""How one stage's result reaches the next, by the name of the engine's connector.

KV dialects say in which order prefill and decode run and what passes between them; EC dialects say what the
gateway passes from an encoder to the stage that reads the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class KVDialect(str, Enum):
    """How KV cache goes from prefill to decode."""

    PULL = "pull"
    """P first; its `kv_transfer_params` go unchanged to D."""
    CALLBACK = "callback"
    """D first; D calls the gateway back, which then prefills on P."""
    PAIRED = "paired"
    """P and D at the same time, joined by an id."""
    STORE = "store"
    """P, then D; nothing is passed: both know the store."""


class ECDialect(str, Enum):
    """How embeddings go from encode to the stage that reads them."""

    STORE = "store"
    """A shared directory; nothing needs to be passed."""
    PULL = "pull"
    """The encoder's `ec_transfer_params` go to the consumer, which fetches."""
    PUSH = "push"
    """The encoder is told its consumer and sends."""


KV_CONNECTORS: Mapping[str, KVDialect] = {
    "NixlConnector": KVDialect.PULL,
    "NixlPullConnector": KVDialect.PULL,
    "NixlPushConnector": KVDialect.PULL,
    "MooncakeConnectorV1": KVDialect.PULL,
    "MooncakeHybridConnector": KVDialect.PULL,
    "LLMDataDistCMgrConnector": KVDialect.PULL,
    "MooncakeLayerwiseConnector": KVDialect.CALLBACK,
    "MooncakeConnector": KVDialect.PAIRED,
    "ExampleConnector": KVDialect.STORE,
    "AscendStoreConnector": KVDialect.STORE,
    "MooncakeConnectorStoreV1": KVDialect.STORE,
}

SGLANG_CONNECTOR = "sglang"
"""How the connectors of SGLang engines begin; a hyphen and their transfer backend follow."""

EC_CONNECTORS: Mapping[str, ECDialect] = {
    "ECExampleConnector": ECDialect.STORE,
    "ECSharedStorageConnector": ECDialect.STORE,
    "ECCPUConnector": ECDialect.PULL,
    "ECMooncakeConnector": ECDialect.PUSH,
}

_HANDOFF_SECONDS: Mapping[str, float] = {
    "NixlConnector": 30.0,
    "NixlPullConnector": 30.0,
    "NixlPushConnector": 30.0,
    "MooncakeConnectorV1": 480.0,
    "MooncakeHybridConnector": 480.0,
    "MooncakeConnector": 480.0,
    "LLMDataDistCMgrConnector": 480.0,
}


def handing_connector(kv_transfer_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The connector that hands KV from prefill to decode: the first child of a MultiConnector that is not a
    store (or its first child if all are), else the configuration itself."""
    if kv_transfer_config.get("kv_connector") != "MultiConnector":
        return kv_transfer_config
    extra = kv_transfer_config.get("kv_connector_extra_config")
    children = extra.get("connectors") if isinstance(extra, Mapping) else None
    if not isinstance(children, list) or not children:
        return kv_transfer_config
    mappings = [child for child in children if isinstance(child, Mapping)]
    for child in mappings:
        if KV_CONNECTORS.get(str(child.get("kv_connector"))) not in (None, KVDialect.STORE):
            return child
    return mappings[0] if mappings else kv_transfer_config


def kv_dialect(connector: str, stated: str | None = None) -> KVDialect | None:
    """The dialect of a KV connector; `stated` (the user's own word) wins. None for a name nobody knows."""
    if stated is not None:
        return KVDialect(stated)
    return KV_CONNECTORS.get(connector)


def ec_dialect(connector: str, stated: str | None = None) -> ECDialect | None:
    """The dialect of an EC connector; `stated` (the user's own word) wins. None for a name nobody knows."""
    if stated is not None:
        return ECDialect(stated)
    return EC_CONNECTORS.get(connector)


def handoff_seconds(connector: str) -> float | None:
    """For how many seconds prefill keeps KV that nobody fetched, or None when it does not expire.

    NIXL: `kv_lease_duration` of vLLM. Mooncake: `VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT`.
    """
    return _HANDOFF_SECONDS.get(connector)
