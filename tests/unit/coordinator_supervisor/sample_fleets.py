"""Instances and fleets for tests."""

from __future__ import annotations

from typing import Any

from pymotor.fleet import (
    ECDialect,
    ECTransfer,
    Endpoint,
    EndpointState,
    FleetSnapshot,
    Instance,
    InstanceState,
    KVDialect,
    KVTransfer,
    Role,
)


def instance(name: str, role: Role, *, state: InstanceState = InstanceState.ACTIVE, **changes: Any) -> Instance:
    """An instance with one endpoint that nobody calls, able to hand over as its role should."""
    fields: dict[str, Any] = {
        "models": ("tiny",),
        "engine": "sim",
        "endpoints": (Endpoint(id=f"{name}/0", url="http://127.0.0.1:9", state=EndpointState.READY),),
        "kv": kv(role) if role in (Role.PREFILL, Role.DECODE) else None,
        "ec": ECTransfer(
            connector="ECExampleConnector",
            dialect=ECDialect.STORE,
            produces=role is Role.ENCODE,
            consumes=role is not Role.ENCODE,
            store="/embeddings",
        ),
    }
    return Instance(name=name, role=role, state=state, **(fields | changes))


def kv(role: Role, dialect: KVDialect = KVDialect.PULL) -> KVTransfer:
    return KVTransfer(
        connector="NixlConnector", dialect=dialect, produces=role is Role.PREFILL, consumes=role is Role.DECODE
    )


def fleet(*instances: Instance, version: int = 1, epoch: int = 0, complete: bool = True) -> FleetSnapshot:
    return FleetSnapshot(epoch=epoch, version=version, complete=complete, instances=instances)


ENCODE = instance("encode-0", Role.ENCODE)
PREFILL = instance("prefill-0", Role.PREFILL)
DECODE = instance("decode-0", Role.DECODE)
UNION = instance("union-0", Role.UNION)
