"""What a request's KV transfer parameters ask for: where decode's KV comes from and where prefill's goes.

Field names are those of the connectors: NixlConnector and MooncakeConnector of vLLM 0.32,
MooncakeLayerwiseConnector of vllm-ascend, and SGLang's `bootstrap_host`, `bootstrap_port`, `bootstrap_room`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymotor.fleet.dialects import KVDialect

BATCH = "batch_kv_transfer_params"
ROOM = "bootstrap_room"
BOOTSTRAP_FIELDS = ("bootstrap_host", "bootstrap_port", ROOM)


class HandoffError(ValueError):
    """Parameters that an engine of this kind refuses; the message is the client's."""


class WrongRoleError(Exception):
    """Parameters for the other role, which MooncakeConnector meets with an assertion: the engine core dies."""


@dataclass(frozen=True)
class KVSource:
    """Where another engine keeps KV for a request, to be fetched from there."""

    host: str
    port: int
    engine_id: str
    request_id: str
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Callback:
    """KV that will be pushed into this request's blocks after `url` was told where they are."""

    url: str | None
    virtual: bool = False
    """Nobody is told and nothing will come: the request goes on with what lies in its blocks."""


@dataclass(frozen=True)
class Meeting:
    """KV that prefill hands over to whoever comes with the same id, found through a bootstrap server."""

    bootstrap: str
    """`http://host:port`."""
    key: str
    """`transfer_id` or `bootstrap_room`."""
    engine_id: str | None
    """Whom the gateway names; SGLang's does not."""


@dataclass(frozen=True)
class Lease:
    """Prefill's blocks wait to be fetched; the answer says where they are."""


@dataclass(frozen=True)
class PushTarget:
    """Prefill writes its blocks into another engine's before it answers."""

    host: str
    port: int
    engine_id: str
    request_id: str
    blocks: tuple[int, ...]
    cached_tokens: int
    """Positions that decode has already."""


@dataclass(frozen=True)
class Offer:
    """Prefill's blocks wait for whoever comes with this key."""

    key: str
    answers_first: bool
    """Whether prefill answers as soon as it has computed (MooncakeConnector), or when decode has its KV (SGLang)."""


@dataclass(frozen=True)
class Nowhere:
    """Prefill is to hand over, but to nobody who can be found: the request fails."""

    reason: str


Source = KVSource | Callback | Meeting
Target = Lease | PushTarget | Offer | Nowhere


@dataclass(frozen=True)
class Handoffs:
    """Reads parameters as one engine's connector does."""

    dialect: KVDialect | None = KVDialect.PULL
    sglang_mode: str | None = None
    """`prefill` or `decode` of SGLang's `--disaggregation-mode`."""
    role: str = "kv_both"
    """`kv_role` of the connector."""

    def source(self, params: Mapping[str, Any] | None) -> Source | None:
        """Where a request's KV comes from; None where it is to be computed here.

        Raises `HandoffError` for an SGLang request that names no room, `WrongRoleError`.
        """
        if self.sglang_mode is not None:
            room = _room(params)
            return room if self.sglang_mode == "decode" else None
        if not params or not params.get("do_remote_prefill"):
            return None
        if self.dialect is KVDialect.PULL:
            return _pulled(params)
        if self.dialect is KVDialect.CALLBACK:
            url = params.get("metaserver")
            return Callback(url if isinstance(url, str) else None, bool(params.get("do_virtual")))
        if self.dialect is KVDialect.PAIRED:
            if self.role == "kv_producer":
                raise WrongRoleError("do_remote_prefill was asked of a kv_producer")
            return _meeting(params)
        return None

    def target(self, params: Mapping[str, Any] | None) -> Target | None:
        """Where a request's KV goes when prefill has computed it; None where it stays.

        Raises `HandoffError` for an SGLang request that names no room, `WrongRoleError`.
        """
        if self.sglang_mode is not None:
            room = _room(params)
            return Offer(room.key, answers_first=False) if self.sglang_mode == "prefill" else None
        if not params or not params.get("do_remote_decode"):
            return None
        if self.dialect is KVDialect.PULL:
            return Lease()
        if self.dialect is KVDialect.CALLBACK:
            return _push_target(params)
        if self.dialect is KVDialect.PAIRED and self.role == "kv_consumer":
            raise WrongRoleError("do_remote_decode was asked of a kv_consumer")
        if self.dialect is KVDialect.PAIRED and params.get("transfer_id"):
            return Offer(str(params["transfer_id"]), answers_first=True)
        return None


def of_prompt(params: Mapping[str, Any] | None, external_id: str, index: int) -> dict[str, Any] | None:
    """The parameters of one prompt of several: by its id in a batch of the callback dialect, by its place in
    SGLang's lists, else those of all."""
    if params is None:
        return None
    batch = params.get(BATCH)
    if isinstance(batch, Mapping):
        own = batch.get(external_id)
        return dict(own) if isinstance(own, Mapping) else {"do_remote_decode": True}
    return {name: _at(value, index) if name in BOOTSTRAP_FIELDS else value for name, value in params.items()}


def _at(value: Any, index: int) -> Any:
    if not isinstance(value, list):
        return value
    return value[index] if index < len(value) else None


def _pulled(params: Mapping[str, Any]) -> KVSource | None:
    """None where the parameters name no complete source."""
    port = params.get("remote_port")
    named = [params.get(name) for name in ("remote_host", "remote_engine_id", "remote_request_id")]
    blocks = _blocks(params.get("remote_block_ids"))
    if not isinstance(port, int) or not all(isinstance(name, str) for name in named) or not blocks:
        return None
    host, engine_id, request_id = (str(name) for name in named)
    return KVSource(host, port, engine_id, request_id, blocks)


def _meeting(params: Mapping[str, Any]) -> Meeting | None:
    named = [params.get(name) for name in ("remote_bootstrap_addr", "transfer_id", "remote_engine_id")]
    if not all(isinstance(name, str) and name for name in named):
        return None  # as in vLLM, which then computes by itself
    address, key, engine_id = (str(name) for name in named)
    return Meeting(address.rstrip("/"), key, engine_id)


def _push_target(params: Mapping[str, Any]) -> Target:
    port, cached = params.get("remote_port"), params.get("remote_cached_tokens") or 0
    named = [params.get(name) for name in ("remote_host", "remote_engine_id", "request_id")]
    blocks = _blocks(params.get("remote_block_ids"))
    if not all(isinstance(name, str) for name in named) or not isinstance(port, int) or blocks is None:
        return Nowhere("its parameters lack remote_host, remote_port, remote_engine_id, remote_block_ids or request_id")
    host, engine_id, request_id = (str(name) for name in named)
    return PushTarget(host, port, engine_id, request_id, blocks, cached if isinstance(cached, int) else 0)


def _blocks(groups: Any) -> tuple[int, ...] | None:
    """Block ids out of a list for each KV cache group, or a flat list; None where it is neither."""
    if not isinstance(groups, list):
        return None
    blocks = [block for group in groups for block in (group if isinstance(group, list) else [group])]
    return tuple(blocks) if all(isinstance(block, int) and block >= 0 for block in blocks) else None


def _room(params: Mapping[str, Any] | None) -> Meeting:
    room = None if params is None else params.get(ROOM)
    if params is None or not isinstance(room, int) or isinstance(room, bool):
        raise HandoffError("Invalid request: Disaggregated request received without bootstrap room id.")
    host, port = params.get("bootstrap_host"), params.get("bootstrap_port")
    return Meeting(f"http://{host}:{port if isinstance(port, int) else 8998}", str(room), None)
