"""Endpoints, instances and the numbered, immutable snapshot of the whole fleet.

The JSON form of a snapshot is what parts of PyMotor send each other; `encode_snapshot` and `decode_snapshot`
are its only writer and reader.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec

from pymotor.fleet.dialects import ECDialect, KVDialect
from pymotor.fleet.roles import Role

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A number of tokens that every part of PyMotor can take, whatever an engine says."""


class EndpointState(str, Enum):
    """What is known of one engine server."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    GONE = "gone"


class InstanceState(str, Enum):
    """Where an instance is in its life."""

    INITIAL = "initial"
    ACTIVE = "active"
    INACTIVE = "inactive"
    DRAINING = "draining"
    GONE = "gone"


class KVEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Where one rank of an engine publishes which KV blocks it holds; the host is the endpoint's."""

    rank: int = 0
    """Data parallel rank."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """Of the ZeroMQ socket that publishes."""
    replay_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """Of the one that repeats what was missed, where there is one."""
    topic: str = ""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One engine HTTP server."""

    id: str
    """Unique in the fleet, `<instance>/<rank>`."""
    url: str
    """`http://host:port`, without a path."""
    data_parallel_rank: int | None = None
    """The rank behind this URL, or None where the engine balances its ranks itself."""
    state: EndpointState = EndpointState.STARTING
    kv_bootstrap: str = ""
    """Where it has a bootstrap server of its own, like `KVTransfer.bootstrap`; read by `Instance.bootstrap_of`."""
    ec_address: str = ""
    """Where it has a control address of its own, like `ECTransfer.address`; read by `Instance.ec_address_of`."""
    kv_events: tuple[KVEvents, ...] = ()
    """As its engine was told to publish them, a rank each; an engine that can say itself where it does is asked."""


class KVTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance hands KV cache over."""

    connector: str
    """As the engine calls it; of a MultiConnector the child that hands over from prefill to decode."""
    dialect: KVDialect
    produces: bool
    consumes: bool
    handoff_seconds: float | None = None
    """How long prefill keeps KV that was not fetched; None: for ever."""
    bootstrap: str = ""
    """`http://host:port` of prefill's bootstrap server (vLLM's MooncakeConnector, SGLang); empty for other
    connectors, and for decode."""


class ECTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance hands encoder embeddings over."""

    connector: str
    dialect: ECDialect
    produces: bool
    consumes: bool
    store: str | None = None
    """Where they meet: the shared directory of a store, None for other dialects."""
    address: str = ""
    """`tcp://host:port` where a consumer that is pushed to takes reservations; empty for other dialects."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints that form one engine group, in one or more pods; the unit of restart."""

    name: str
    """Unique in the fleet, `<role>-<number>`."""
    role: Role
    models: tuple[str, ...]
    """The names it serves; clients send one of them as `model`."""
    engine: str
    """`vllm`, `sglang` or `sim`."""
    engine_version: str = ""
    state: InstanceState = InstanceState.INITIAL
    endpoints: tuple[Endpoint, ...] = ()
    kv: KVTransfer | None = None
    ec: ECTransfer | None = None
    pairing: str = ""
    """Equal in two instances that can hand over: model path, engine build, KV layout."""
    max_model_len: Tokens | None = None
    """Tokens of prompt and answer together."""
    kv_capacity_tokens: Tokens | None = None
    """Tokens of KV that fit, where known."""
    allowed_local_media_path: str = ""
    """Under which directory the engine reads `file://` media; empty: nowhere."""
    fault: str = ""
    """Why the instance does not serve, in words for a person; empty when it does."""

    @property
    def serves(self) -> bool:
        """Whether new legs may go to it."""
        return self.state is InstanceState.ACTIVE

    def bootstrap_of(self, endpoint_id: str) -> str:
        """The bootstrap server for KV made by this endpoint, or an empty string where there is none."""
        if self.kv is None:
            return ""
        return next((own.kv_bootstrap for own in self.endpoints if own.id == endpoint_id), "") or self.kv.bootstrap

    def ec_address_of(self, endpoint_id: str) -> str:
        """Where embeddings for this endpoint are announced, or an empty string where nothing is pushed to it."""
        if self.ec is None:
            return ""
        return next((own.ec_address for own in self.endpoints if own.id == endpoint_id), "") or self.ec.address


class FleetSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All instances at one moment. `(epoch, version)` only grows; a reader refuses an older one."""

    epoch: int = 0
    version: int = 0
    complete: bool = True
    """False while its maker still learns who is there: then nobody is removed because of it."""
    instances: tuple[Instance, ...] = ()


def can_hand_over_kv(prefill: Instance, decode: Instance) -> bool:
    """Whether KV made by `prefill` can be used by `decode`."""
    return (
        prefill.kv is not None
        and decode.kv is not None
        and prefill.kv.produces
        and decode.kv.consumes
        and prefill.kv.dialect is decode.kv.dialect
        and prefill.pairing == decode.pairing
    )


def can_hand_over_embeddings(encode: Instance, consumer: Instance) -> bool:
    """Whether embeddings made by `encode` can be used by `consumer`."""
    return (
        encode.ec is not None
        and consumer.ec is not None
        and encode.ec.produces
        and consumer.ec.consumes
        and encode.ec.dialect is consumer.ec.dialect
        and encode.ec.store == consumer.ec.store
    )


class _WithInstances(FleetSnapshot, frozen=True, kw_only=True):
    """What another writer's JSON has to name: an object without instances is no fleet of none, but something else."""

    instances: tuple[Instance, ...]


_decoder = msgspec.json.Decoder(_WithInstances)


def encode_snapshot(snapshot: FleetSnapshot) -> bytes:
    """The snapshot as JSON."""
    return msgspec.json.encode(snapshot)


def decode_snapshot(data: bytes | str) -> FleetSnapshot:
    """A snapshot from JSON; unknown keys of a newer writer are passed over.

    Raises `msgspec.ValidationError` or `msgspec.DecodeError` when it is none; it names its instances at least.
    """
    read = _decoder.decode(data)
    return FleetSnapshot(epoch=read.epoch, version=read.version, complete=read.complete, instances=read.instances)
