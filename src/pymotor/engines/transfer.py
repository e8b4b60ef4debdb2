"""Transfer settings of an instance: what the user wrote, completed for its role and made unique on its host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymotor.engines.plan import PlanError
from pymotor.engines.versions import without_refused
from pymotor.fleet import ECDialect, ECTransfer, KVDialect, KVTransfer, Role, ec_dialect, kv_dialect
from pymotor.fleet.dialects import EC_CONNECTORS, KV_CONNECTORS, handing_connector, handoff_seconds

KV_ROLES = {Role.PREFILL: "kv_producer", Role.DECODE: "kv_consumer"}
EC_ROLES = {
    Role.ENCODE: "ec_producer",
    Role.PREFILL: "ec_consumer",
    Role.UNION: "ec_consumer",
    Role.DECODE: "ec_consumer",
}

SIZED_CONNECTORS = frozenset({"MooncakeConnectorV1", "MooncakeHybridConnector", "MooncakeLayerwiseConnector"})
"""Connectors of vLLM-Ascend that want to know the parallel sizes of both sides."""

KV_PORT_CONNECTORS = SIZED_CONNECTORS
"""Connectors that listen on `kv_port`, one port for each rank from there up."""

BOOTSTRAP_CONNECTOR = "MooncakeConnector"
"""The connector whose prefill engines run a bootstrap server that tells their engine ids."""

STORE_CONNECTORS = frozenset({"ECExampleConnector", "ECSharedStorageConnector"})
"""EC connectors that meet in a directory."""

OTHER_KV_CONNECTORS = frozenset(
    {
        "DecodeBenchConnector",
        "ExampleHiddenStatesConnector",
        "FlexKVConnectorV1",
        "HF3FSKVConnector",
        "HiSparseConnector",
        "LMCacheConnectorV1",
        "LMCacheMPConnector",
        "MooncakeStoreConnector",
        "OffloadingConnector",
        "RecomputeCPUOffloadConnector",
        "SfaRemoteD2HConnector",
        "SimpleCPUOffloadConnector",
        "UCMConnector",
    }
)
"""Connectors of vLLM and vLLM-Ascend that extend one engine's cache or whose order PyMotor does not know."""

LOOKUP_PORT_KEYS = {"AscendStoreConnector": "lookup_rpc_port", "MooncakeConnectorStoreV1": "mooncake_rpc_port"}
"""Pool connectors that listen for lookups, and where that port stands in their extra configuration."""


@dataclass(frozen=True)
class Sizes:
    """Parallel sizes of one side, as connectors want them."""

    data: int
    tensor: int
    pipeline: int

    def as_extra_config(self) -> dict[str, int]:
        """As they stand in `kv_connector_extra_config`."""
        return {"dp_size": self.data, "tp_size": self.tensor, "pp_size": self.pipeline}


@dataclass(frozen=True)
class Placement:
    """What an instance's transfer settings depend on beside the settings themselves."""

    role: Role
    engine: str
    engine_version: str
    engine_id: str
    """Peers remember engines by it, so nobody shares one."""
    prefill_sizes: Sizes | None
    decode_sizes: Sizes | None
    kv_port: int | None = None
    lookup_port: int | None = None
    ec_port: int | None = None
    address: str = "127.0.0.1"
    shared_directory: Path | None = None


@dataclass(frozen=True)
class Completed:
    """A completed setting, and what was taken out of it."""

    config: dict[str, Any]
    warnings: tuple[str, ...] = field(default=())


def as_object(option: str, value: object) -> dict[str, Any] | None:
    """A transfer setting as an object, also when it was written as JSON text. Raises PlanError for other things."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise PlanError(f"{option} is neither an object nor JSON text: {error}") from error
    if not isinstance(value, Mapping):
        raise PlanError(f"{option} must be an object with the connector's settings")
    return dict(value)


def complete_kv(config: Mapping[str, Any], placement: Placement) -> Completed:
    """`kv_transfer_config` with role, sizes of both sides and ports; children of a MultiConnector alike."""
    completed, warnings = without_refused(placement.engine, placement.engine_version, "kv_transfer_config", config)
    completed["engine_id"] = placement.engine_id
    completed["kv_role"] = KV_ROLES.get(placement.role) or completed.get("kv_role") or "kv_both"
    connector = str(completed.get("kv_connector"))
    if connector in KV_PORT_CONNECTORS and placement.kv_port is not None:
        completed["kv_port"] = placement.kv_port
    extra = _mapping(completed.get("kv_connector_extra_config"))
    if connector in SIZED_CONNECTORS and placement.prefill_sizes and placement.decode_sizes:
        extra["prefill"] = _mapping(extra.get("prefill")) | placement.prefill_sizes.as_extra_config()
        extra["decode"] = _mapping(extra.get("decode")) | placement.decode_sizes.as_extra_config()
    if connector in LOOKUP_PORT_KEYS and placement.lookup_port is not None:
        extra[LOOKUP_PORT_KEYS[connector]] = placement.lookup_port
    if connector == "ExampleConnector" and placement.shared_directory:
        extra.setdefault("shared_storage_path", str(placement.shared_directory / "kv"))
    if connector == "MultiConnector":
        children = [complete_kv(child, placement) for child in children_of(config)]
        extra["connectors"] = [child.config for child in children]
        warnings += tuple(warning for child in children for warning in child.warnings)
    if extra or "kv_connector_extra_config" in completed:
        completed["kv_connector_extra_config"] = extra
    return Completed(completed, tuple(dict.fromkeys(warnings)))


def complete_ec(config: Mapping[str, Any], placement: Placement) -> Completed:
    """`ec_transfer_config` with role, ports and the shared directory where none is named."""
    completed, warnings = without_refused(placement.engine, placement.engine_version, "ec_transfer_config", config)
    completed["engine_id"] = placement.engine_id
    completed["ec_role"] = completed.get("ec_role") or EC_ROLES[placement.role]
    connector = str(completed.get("ec_connector"))
    extra = _mapping(completed.get("ec_connector_extra_config"))
    if connector in STORE_CONNECTORS and placement.shared_directory:
        extra.setdefault("shared_storage_path", str(placement.shared_directory / "ec"))
    if extra or "ec_connector_extra_config" in completed:
        completed["ec_connector_extra_config"] = extra
    if placement.ec_port is not None:
        completed["ec_ip"] = placement.address
        completed["ec_port"] = placement.ec_port
    return Completed(completed, warnings)


def kv_transfer(
    config: Mapping[str, Any], role: Role, stated_dialect: str | None, bootstrap: str = ""
) -> KVTransfer | None:
    """How the instance with this completed setting hands KV over; None for a union engine that does not, because
    its connector only extends its cache. `bootstrap`: see `bootstrap_server`. Raises PlanError for another engine's
    unknown connector."""
    connector = str(handing_connector(config).get("kv_connector"))
    dialect = kv_dialect(connector, stated_dialect)
    if dialect is None and role is Role.UNION:
        return None
    if dialect is None:
        raise PlanError(
            f"kv_connector {connector!r} is not known: state how it hands over beside engine_type, as "
            f'"kv_dialect": one of {_choices(KVDialect)}, or use one of {", ".join(sorted(KV_CONNECTORS))}'
        )
    kv_role = config.get("kv_role")
    return KVTransfer(
        connector=connector,
        dialect=dialect,
        produces=kv_role in ("kv_producer", "kv_both"),
        consumes=kv_role in ("kv_consumer", "kv_both"),
        handoff_seconds=_lease_seconds(config, connector),
        bootstrap=bootstrap,
    )


def bootstrap_server(config: Mapping[str, Any], host: str, port: int | None) -> str:
    """`http://host:port` where a vLLM MooncakeConnector that makes KV is asked for its engine ids; empty for others.
    `host`, as URLs want it, and `port` are the server's own, unless the setting names another."""
    handing = handing_connector(config)
    if handing.get("kv_connector") != BOOTSTRAP_CONNECTOR or config.get("kv_role") == "kv_consumer":
        return ""
    stated = _mapping(handing.get("kv_connector_extra_config")).get("bootstrap_server_address")
    if stated:
        return f"http://{stated}"
    return f"http://{host}:{port}" if port is not None else ""


def ec_control_address(config: Mapping[str, Any], host: str, port: int | None) -> str:
    """`tcp://host:port` where embeddings for a consumer are announced; empty for a setting that is not pushed to."""
    pushed_to = config.get("ec_role") != "ec_producer" and ec_dialect(str(config.get("ec_connector"))) is ECDialect.PUSH
    return f"tcp://{host}:{port}" if pushed_to and port is not None else ""


def ec_transfer(config: Mapping[str, Any], stated_dialect: str | None, address: str = "") -> ECTransfer:
    """How the instance with this completed setting hands embeddings over; `address`: see `ec_control_address`. Raises
    PlanError likewise."""
    connector = str(config.get("ec_connector"))
    dialect = ec_dialect(connector, stated_dialect)
    if dialect is None:
        raise PlanError(
            f"ec_connector {connector!r} is not known: state how it hands over beside engine_type, as "
            f'"ec_dialect": one of {_choices(ECDialect)}, or use one of {", ".join(sorted(EC_CONNECTORS))}'
        )
    role = str(config.get("ec_role"))
    store = shared_path(config, "ec")
    return ECTransfer(
        connector=connector,
        dialect=dialect,
        produces=role in ("ec_producer", "ec_both"),
        consumes=role in ("ec_consumer", "ec_both"),
        store=store or None if dialect is ECDialect.STORE else None,
        address=address,
    )


def shared_path(config: Mapping[str, Any], kind: str) -> str:
    """The directory where engines meet by this `kv` or `ec` setting; empty where none is named."""
    path = _mapping(config.get(f"{kind}_connector_extra_config")).get("shared_storage_path")
    return str(path) if path else ""


def children_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The connectors inside a MultiConnector."""
    children = _mapping(config.get("kv_connector_extra_config")).get("connectors")
    return [child for child in children if isinstance(child, Mapping)] if isinstance(children, list) else []


def connectors_of(config: Mapping[str, Any]) -> list[str]:
    """The names of all connectors of a setting, those inside a MultiConnector included."""
    return [str(config.get("kv_connector")), *(str(child.get("kv_connector")) for child in children_of(config))]


def _lease_seconds(config: Mapping[str, Any], connector: str) -> float | None:
    extra = _mapping(handing_connector(config).get("kv_connector_extra_config"))
    stated = extra.get("kv_lease_duration")
    if connector.startswith("Nixl") and isinstance(stated, int | float) and not isinstance(stated, bool):
        return float(stated)
    return handoff_seconds(connector)


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _choices(dialects: type[KVDialect] | type[ECDialect]) -> str:
    return ", ".join(dialect.value for dialect in dialects)
