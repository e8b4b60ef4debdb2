"""Which prefill and decode instances work together under one configuration, and in words why others do not."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from pymotor.fleet import Instance, KVDialect, Role
from pymotor.fleet.dialects import SGLANG_CONNECTOR

_FORCED: Mapping[str | None, frozenset[KVDialect]] = {
    "single_node": frozenset(),
    "cpcd_separate": frozenset((KVDialect.PULL, KVDialect.STORE)),
    "cdp_separate": frozenset((KVDialect.CALLBACK,)),
    "pd_dual_dispatch": frozenset((KVDialect.PAIRED,)),
}
"""What a `scheduler_config.deploy_mode` leaves; others leave it to the connectors."""


class PairingRules(msgspec.Struct, frozen=True):
    """What a Coordinator's configuration says about pairs."""

    deploy_mode: str | None = None
    callback_host: str = "127.0.0.1"
    """Where decode engines reach this Coordinator's workers; empty where nobody knows."""

    def obstacle(self, prefill: Instance, decode: Instance) -> str:
        """Why KV cache made by `prefill` cannot go to `decode`; empty when it can."""
        return _mismatch(prefill, decode) or self._excluded(prefill) or self._unreachable(prefill, decode)

    def _excluded(self, prefill: Instance) -> str:
        allowed = _FORCED.get(self.deploy_mode)
        kv = prefill.kv
        if allowed is None or kv is None or kv.dialect in allowed:
            return ""
        if not allowed:
            return f"scheduler_config.deploy_mode {self.deploy_mode} lets no instances work together"
        wanted = " or ".join(sorted(dialect.value for dialect in allowed))
        return (
            f"scheduler_config.deploy_mode {self.deploy_mode} wants connectors of the dialect {wanted}, "
            f"and {kv.connector} has {kv.dialect.value}"
        )

    def _unreachable(self, prefill: Instance, decode: Instance) -> str:
        if prefill.kv is None or prefill.kv.dialect is not KVDialect.CALLBACK:
            return ""
        if not self.callback_host:
            return (
                "decode engines call the Coordinator back, which listens on all interfaces and knows no address of "
                "its own: set api_config.coordinator_api_host, or POD_IP in its environment"
            )
        hosts = [urlsplit(endpoint.url).hostname or "" for endpoint in decode.endpoints]
        remote = [host for host in hosts if not is_loopback(host)]
        if remote and is_loopback(self.callback_host):
            return (
                f"decode engines call the Coordinator back, and from {remote[0]} nobody reaches {self.callback_host}: "
                "set api_config.coordinator_api_host to an address of this machine"
            )
        return ""


def answers_alone(instance: Instance) -> bool:
    """Whether it computes whole requests: an SGLang engine that was started for one stage refuses them."""
    kv = instance.kv
    if instance.role in (Role.PREFILL, Role.DECODE):
        return kv is None or not kv.connector.startswith(SGLANG_CONNECTOR)
    return instance.role is Role.UNION


AUTOMATIC = PairingRules()
"""As the connectors say, on one machine."""


def is_wildcard(host: str) -> bool:
    """Whether an address to listen on stands for all interfaces, so that nobody can dial it."""
    address = _address(host)
    return not host or (address is not None and address.is_unspecified)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from its own machine only."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _mismatch(prefill: Instance, decode: Instance) -> str:
    """What of two instances is not equal though it has to be."""
    made, taken = prefill.kv, decode.kv
    if made is None or not made.produces:
        return "prefill hands no KV cache over"
    if taken is None or not taken.consumes:
        return "decode takes no KV cache over"
    if made.dialect is not taken.dialect:
        return (
            f"prefill hands over by {made.connector} (dialect {made.dialect.value}), "
            f"decode by {taken.connector} ({taken.dialect.value})"
        )
    if prefill.pairing != decode.pairing:
        return f"prefill differs from decode: {_differing(prefill.pairing, decode.pairing)}"
    return ""


def _differing(own: str, other: str) -> str:
    """The parts of two pairings, `name=value` each, that are not equal."""
    mine, theirs = own.split(), other.split()
    if not all("=" in part for part in mine + theirs):
        return f"{own!r} against {other!r}"
    former, latter = (dict(part.split("=", 1) for part in parts) for parts in (mine, theirs))
    return ", ".join(
        f"{name} {former.get(name, 'unknown')} against {latter.get(name, 'unknown')}"
        for name in dict.fromkeys((*former, *latter))
        if former.get(name) != latter.get(name)
    )
