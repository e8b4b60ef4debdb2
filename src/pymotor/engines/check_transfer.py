"""Checks of one engine's transfer settings, whatever the other engines are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pymotor.config import Problem, nearest
from pymotor.engines.checked import CheckedEngine
from pymotor.engines.plan import PlanError
from pymotor.engines.transfer import EC_ROLES, KV_ROLES, OTHER_KV_CONNECTORS, as_object, children_of
from pymotor.engines.versions import refused_keys
from pymotor.fleet import Role
from pymotor.fleet.dialects import EC_CONNECTORS, KV_CONNECTORS, ECDialect, KVDialect, handing_connector

KV, EC = "kv_transfer_config", "ec_transfer_config"
EXTRA = {KV: "kv_connector_extra_config", EC: "ec_connector_extra_config"}


def presence(engine: CheckedEngine) -> Iterator[Problem]:
    """Stages that hand over say how."""
    if engine.type == "sglang":
        if engine.role is Role.ENCODE:
            yield engine.error("SGLang engines do not encode for others", do='use engine_type "vllm"')
        return
    if engine.role in (Role.PREFILL, Role.DECODE) and engine.options.get(KV) is None:
        yield engine.error(
            "has no kv_transfer_config, so prefill and decode cannot hand KV over",
            do="add kv_transfer_config with a kv_connector, as NixlConnector or MooncakeLayerwiseConnector",
        )
    if engine.role is Role.ENCODE and engine.options.get(EC) is None:
        yield engine.error(
            "has no ec_transfer_config, so nobody gets its embeddings",
            do="add ec_transfer_config with an ec_connector, as ECExampleConnector",
        )
    for option in (KV, EC, "kv_events_config"):
        fault = _not_an_object(engine, option)
        if fault:
            yield engine.error(fault, option, allowed="an object")


def kv_connector(engine: CheckedEngine) -> Iterator[Problem]:
    """The KV connector is one whose order of prefill and decode is known."""
    config = engine.setting(KV)
    if config is None or engine.type == "sglang":
        return
    yield from _extra_is_object(engine, KV, config)
    name = config.get("kv_connector")
    if not isinstance(name, str) or not name:
        yield engine.error("names no connector", KV, "kv_connector", allowed=", ".join(sorted(KV_CONNECTORS)))
        return
    if name == "MultiConnector":
        yield from _multi_connector(engine, config)
    handing = str(handing_connector(config).get("kv_connector"))
    if engine.section.kv_dialect is not None:
        yield from _stated(engine, "kv_dialect", engine.section.kv_dialect, handing, KV_CONNECTORS.get(handing))
    elif handing not in KV_CONNECTORS and engine.role is not Role.UNION and name != "MultiConnector":
        known = "it does not hand over from prefill to decode" if handing in OTHER_KV_CONNECTORS else "unknown"
        yield _unknown(engine, KV, "kv_connector", handing, known, KV_CONNECTORS, "kv_dialect", KVDialect)


def ec_connector(engine: CheckedEngine) -> Iterator[Problem]:
    """The EC connector is one whose way of handing over is known."""
    config = engine.setting(EC)
    if config is None or engine.type == "sglang":
        return
    yield from _extra_is_object(engine, EC, config)
    name = config.get("ec_connector")
    if not isinstance(name, str) or not name:
        yield engine.error("names no connector", EC, "ec_connector", allowed=", ".join(sorted(EC_CONNECTORS)))
    elif engine.section.ec_dialect is not None:
        yield from _stated(engine, "ec_dialect", engine.section.ec_dialect, name, EC_CONNECTORS.get(name))
    elif name not in EC_CONNECTORS:
        yield _unknown(engine, EC, "ec_connector", name, "unknown", EC_CONNECTORS, "ec_dialect", ECDialect)
    sizes = engine.section.parallel_sizes()
    if name == "ECMooncakeConnector" and engine.role is Role.ENCODE and sizes is not None and sizes.devices > 1:
        yield engine.error(
            "ECMooncakeConnector encodes on one device",
            EC,
            "ec_connector",
            do="set the encoder's parallel sizes to 1 and use more instances",
        )


def roles(engine: CheckedEngine) -> Iterator[Problem]:
    """The transfer roles that are written fit the stage."""
    kv, ec = engine.setting(KV), engine.setting(EC)
    wanted = KV_ROLES.get(engine.role)
    if kv is not None and wanted and kv.get("kv_role") not in (None, wanted, "kv_both"):
        yield engine.warning(f"{engine.role.value} is started as {wanted}", KV, "kv_role", do=f"write {wanted}")
    if ec is None or ec.get("ec_role") is None:
        return
    right = (EC_ROLES[engine.role], "ec_both") if engine.role is not Role.ENCODE else (EC_ROLES[engine.role],)
    if ec["ec_role"] not in right:
        yield engine.error(
            f"does not fit {engine.role.value}", EC, "ec_role", allowed=" or ".join(right), do=f"write {right[0]}"
        )
    elif engine.role is Role.DECODE:
        yield engine.warning("decode needs embeddings only while no prefill instance is left", EC)


def refused(engine: CheckedEngine) -> Iterator[Problem]:
    """Keys with which engines of today do not start."""
    for option in (KV, EC):
        config = engine.setting(option) or {}
        for key in sorted(refused_keys(engine.type, "", option) & config.keys()):
            yield engine.warning("left out for vLLM 0.32 and later, which refuse it", option, key, do="remove it")


def _not_an_object(engine: CheckedEngine, option: str) -> str:
    try:
        as_object(option, engine.options.get(option))
    except PlanError as fault:
        return str(fault)
    return ""


def _extra_is_object(engine: CheckedEngine, option: str, config: Mapping[str, object]) -> Iterator[Problem]:
    extra = config.get(EXTRA[option])
    if extra is not None and not isinstance(extra, Mapping):
        yield engine.error("not an object", option, EXTRA[option], allowed="an object with the connector's options")


def _multi_connector(engine: CheckedEngine, config: Mapping[str, object]) -> Iterator[Problem]:
    place = (EXTRA[KV], "connectors")
    children = children_of(config)
    if len(children) < 2:
        yield engine.error(
            "a MultiConnector joins at least two connectors",
            KV,
            *place,
            allowed="a list of objects, each with a kv_connector",
        )
    for number, child in enumerate(children):
        name = child.get("kv_connector")
        if not isinstance(name, str) or not name:
            allowed = ", ".join(sorted(KV_CONNECTORS))
            yield engine.error("names no connector", KV, *place, number, "kv_connector", allowed=allowed)
    dialects = {KV_CONNECTORS.get(str(child.get("kv_connector"))) for child in children} - {None}
    if children and not dialects and engine.section.kv_dialect is None and engine.role is not Role.UNION:
        yield engine.error(
            "none of these connectors is known to hand over from prefill to decode",
            KV,
            *place,
            allowed=", ".join(sorted(KV_CONNECTORS)),
            do='state the order beside engine_type, as "kv_dialect": "pull"',
        )


def _stated(
    engine: CheckedEngine, key: str, stated: str, connector: str, known: KVDialect | ECDialect | None
) -> Iterator[Problem]:
    if known is not None and known.value != stated:
        yield Problem.warning(
            engine.file,
            f"$.motor_engine_{engine.role.value}_config.{key}",
            f"{connector} is known as {known.value}; what you state counts",
            value=stated,
            suggestion="remove it unless you know better",
        )


def _unknown(
    engine: CheckedEngine,
    option: str,
    key: str,
    name: str,
    why: str,
    known: Collection[str],
    dialect_key: str,
    dialects: type[KVDialect] | type[ECDialect],
) -> Problem:
    close = nearest(name, known)
    state = f'state how it hands over beside engine_type, as "{dialect_key}": one of '
    state += ", ".join(dialect.value for dialect in dialects)
    return engine.error(
        f"not a connector that PyMotor can use here: {why}",
        option,
        key,
        allowed=", ".join(sorted(known)),
        do=f"did you mean {close}? Else {state}" if close else state,
    )
