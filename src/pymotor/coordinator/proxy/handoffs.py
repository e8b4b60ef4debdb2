"""How engines of a static fleet hand over: nobody asks them for their connectors, so the command line says it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pymotor.coordinator.bootstraps import DEFAULT_PORT
from pymotor.coordinator.proxy.addresses import Address
from pymotor.fleet import ECDialect, ECTransfer, KVDialect, KVTransfer, Role, kv_dialect
from pymotor.fleet.dialects import KV_CONNECTORS, handoff_seconds

_SHORTEST_HANDOFF = 30.0
"""Seconds for which every pull connector keeps what was not fetched: NIXL's lease is the shortest."""
_ANY_CONNECTOR: Mapping[ECDialect, str] = {
    ECDialect.STORE: "ECExampleConnector",
    ECDialect.PULL: "ECCPUConnector",
    ECDialect.PUSH: "ECMooncakeConnector",
}
_ONE_STORE = "shared"
"""Which store embeddings are in is the engines' matter; the proxy takes it that all of them share one."""

WORDS = tuple(dialect.value for dialect in KVDialect)
"""The dialects of prefill and decode by name."""


class Handoffs(msgspec.Struct, frozen=True, kw_only=True):
    """How the stages of one fleet reach each other."""

    kv: str = KVDialect.PULL.value
    """A KV dialect, or the name of a connector, which also says how long prefill keeps what it hands over."""
    ec: ECDialect = ECDialect.STORE
    bootstrap_ports: Mapping[Address, int] = {}
    """Of prefill engines of the paired dialect, where it is not the usual one."""
    ec_consumers: Mapping[Address, str] = {}
    """`tcp://host:port` where consumers of the push dialect take reservations."""

    @property
    def dialect(self) -> KVDialect:
        """How KV cache goes from prefill to decode. Raises `ValueError` for a connector nobody knows."""
        if self.kv in WORDS:
            return KVDialect(self.kv)
        found = kv_dialect(self.kv)
        if found is None:
            known = ", ".join((*WORDS, *sorted(KV_CONNECTORS)))
            raise ValueError(f"{self.kv!r} is neither a way to hand KV cache over nor a known connector: {known}")
        return found

    def kv_transfer(self, role: Role, address: Address) -> KVTransfer | None:
        """The KV side of an engine of this role."""
        if role not in (Role.PREFILL, Role.DECODE):
            return None
        dialect = self.dialect
        bootstrap = ""
        if dialect is KVDialect.PAIRED and role is Role.PREFILL:
            bootstrap = Address(address.host, self.bootstrap_ports.get(address, DEFAULT_PORT)).url
        kept = _SHORTEST_HANDOFF if dialect is KVDialect.PULL else None
        return KVTransfer(
            connector=self.kv,
            dialect=dialect,
            produces=role is Role.PREFILL,
            consumes=role is Role.DECODE,
            handoff_seconds=kept if self.kv in WORDS else handoff_seconds(self.kv),
            bootstrap=bootstrap,
        )

    def ec_transfer(self, role: Role, address: Address) -> ECTransfer | None:
        """The embeddings' side of an engine of this role."""
        if role is Role.DECODE:
            return None
        produces = role is Role.ENCODE
        pushed_to = self.ec_consumers.get(address, "")
        if self.ec is ECDialect.PUSH and not produces and not pushed_to:
            return None
        return ECTransfer(
            connector=_ANY_CONNECTOR[self.ec],
            dialect=self.ec,
            produces=produces,
            consumes=not produces,
            store=_ONE_STORE if self.ec is ECDialect.STORE else None,
            address=pushed_to if not produces else "",
        )
