"""Checks of what two engines must agree on to hand something over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pymotor.config import Problem
from pymotor.engines.check_options import prefix_caching_is_off
from pymotor.engines.check_transfer import EC, KV
from pymotor.engines.checked import CheckedEngine
from pymotor.engines.command_line import compact_json
from pymotor.engines.transfer import STORE_CONNECTORS, shared_path
from pymotor.fleet import Role, ec_dialect, kv_dialect
from pymotor.fleet.dialects import handing_connector

Engines = Mapping[Role, CheckedEngine]

PROCESSOR_OPTIONS = ("mm_processor_kwargs", "media_io_kwargs", "mm_hasher_algorithm", "revision")
"""Options that change what a media item is called or becomes."""
KV_LAYOUT_OPTIONS = ("dtype", "kv_cache_dtype", "block_size", "revision")
"""Options that change what KV looks like."""
SGLANG_KV_OPTIONS = ("disaggregation_transfer_backend", "kv_cache_dtype", "page_size", "dtype", "quantization")


def encode_and_consumers(engines: Engines) -> Iterator[Problem]:
    """The encoder and each engine that reads its embeddings."""
    encode = engines.get(Role.ENCODE)
    if encode is None:
        return
    consumers = [engines[role] for role in (Role.PREFILL, Role.UNION, Role.DECODE) if role in engines]
    readers = [engine for engine in consumers if engine.setting(EC) is not None]
    if consumers and not any(engine.role is not Role.DECODE for engine in readers):
        yield consumers[0].error(
            "has no ec_transfer_config, so nobody reads the encoder's embeddings",
            do="add ec_transfer_config with the encoder's ec_connector",
        )
    for reader in readers:
        yield from _same_model(encode, reader)
        yield from _same_options(encode, reader, PROCESSOR_OPTIONS, "embeddings are not found or do not fit")
        yield from _ec_connectors(encode, reader)


def prefill_and_decode(engines: Engines) -> Iterator[Problem]:
    """Prefill and decode."""
    prefill, decode = engines.get(Role.PREFILL), engines.get(Role.DECODE)
    if prefill is None or decode is None:
        return
    yield from _same_model(prefill, decode)
    if prefill.type == decode.type == "sglang":
        yield from _same_options(prefill, decode, SGLANG_KV_OPTIONS, "KV cannot be handed over")
        return
    yield from _same_options(prefill, decode, KV_LAYOUT_OPTIONS, "KV cannot be handed over")
    yield from _kv_connectors(prefill, decode)
    for name, effect in (
        ("max_model_len", "what fits one may not fit the other"),
        ("quantization", "answers may vary"),
    ):
        here, there = decode.options.get(name), prefill.options.get(name)
        if _comparable(here) != _comparable(there):
            yield decode.warning(f"prefill has {_shown(there)}: {effect}", name)


def served_names(engines: Engines) -> Iterator[Problem]:
    """All engines of a request are reached under one name."""
    all_engines = list(engines.values())
    for engine in all_engines[1:]:
        first = all_engines[0]
        if not _names(engine) & _names(first):
            option = "served_model_name" if "served_model_name" in engine.options else "model"
            yield engine.error(
                f"{first.role.value} is served as {', '.join(sorted(_names(first)))}: no request reaches both",
                option,
                do="give both the same served_model_name",
            )


def _same_model(one: CheckedEngine, other: CheckedEngine) -> Iterator[Problem]:
    if one.type != other.type:
        yield Problem.error(
            other.file,
            f"$.motor_engine_{other.role.value}_config.engine_type",
            f"{one.role.value} runs {one.type}: different engines cannot hand over",
            value=other.type,
            allowed=one.type,
        )
        return
    option = "model_path" if "model_path" in other.options else "model"
    here, there = _model(other), _model(one)
    if here and there and here != there:
        yield other.error(
            f"{one.role.value} has {compact_json(there)}: the model must be the same string, because what is handed"
            " over is named after it",
            option,
            do=f"write {compact_json(there)}, or change it in {one.role.value}",
        )


def _same_options(
    one: CheckedEngine, other: CheckedEngine, names: tuple[str, ...], otherwise: str
) -> Iterator[Problem]:
    for name in names:
        here, there = other.options.get(name), one.options.get(name)
        if _comparable(here) == _comparable(there):
            continue
        if here is not None:
            yield other.error(f"{one.role.value} has {_shown(there)}: {otherwise}", name, do="make them equal")
        else:
            yield one.error(f"{other.role.value} has none: {otherwise}", name, do="make them equal")


def _comparable(value: object) -> object:
    """An option so that two ways of writing the same thing are equal."""
    if value in (None, "auto"):
        return None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _ec_connectors(encode: CheckedEngine, reader: CheckedEngine) -> Iterator[Problem]:
    ours, theirs = encode.setting(EC), reader.setting(EC)
    if ours is None or theirs is None:
        return
    name, other = str(ours.get("ec_connector")), str(theirs.get("ec_connector"))
    dialect = ec_dialect(name, encode.section.ec_dialect)
    if dialect is not ec_dialect(other, reader.section.ec_dialect):
        yield reader.error(f"encode has {name}: the two cannot hand over", EC, "ec_connector", do=f"write {name}")
        return
    paths = shared_path(ours, "ec"), shared_path(theirs, "ec")
    if name in STORE_CONNECTORS and paths[0] != paths[1]:
        yield reader.error(
            f"encode writes to {paths[0] or 'no named directory'}: its embeddings would not be found",
            EC,
            "ec_connector_extra_config",
            "shared_storage_path",
            do=f"write {paths[0]}" if paths[0] else "name the same directory in both",
        )


def _kv_connectors(prefill: CheckedEngine, decode: CheckedEngine) -> Iterator[Problem]:
    ours, theirs = prefill.setting(KV), decode.setting(KV)
    if ours is None or theirs is None:
        return
    name = str(handing_connector(ours).get("kv_connector"))
    other = str(handing_connector(theirs).get("kv_connector"))
    same_dialect = kv_dialect(name, prefill.section.kv_dialect) is kv_dialect(other, decode.section.kv_dialect)
    if name != other or not same_dialect:
        yield decode.error(f"prefill hands over by {name}, decode by {other}", KV, "kv_connector", do=f"write {name}")
        return
    paths = shared_path(handing_connector(ours), "kv"), shared_path(handing_connector(theirs), "kv")
    if name == "ExampleConnector" and paths[0] != paths[1]:
        yield decode.error(
            f"prefill writes to {paths[0] or 'no named directory'}: its KV would not be found",
            KV,
            "kv_connector_extra_config",
            "shared_storage_path",
            do=f"write {paths[0]}" if paths[0] else "name the same directory in both",
        )
    for engine in (prefill, decode):
        if name == "ExampleConnector" and engine.type == "vllm" and not prefix_caching_is_off(engine):
            yield engine.warning(
                "ExampleConnector answers wrongly together with prefix caching",
                KV,
                "kv_connector",
                do='add "no-enable-prefix-caching": true',
            )
    yield from _tensor_parallel(prefill, decode, name)


def _tensor_parallel(prefill: CheckedEngine, decode: CheckedEngine, connector: str) -> Iterator[Problem]:
    ours, theirs = prefill.section.parallel_sizes(), decode.section.parallel_sizes()
    if connector == "MooncakeConnectorV1" and ours and theirs and ours.tensor < theirs.tensor:
        yield decode.warning(
            f"{connector} wants prefill's tensor parallel size ({ours.tensor}) not below decode's",
            "tensor_parallel_size",
        )


def _model(engine: CheckedEngine) -> object:
    return engine.options.get("model") or engine.options.get("model_path")


def _names(engine: CheckedEngine) -> frozenset[str]:
    stated = engine.options.get("served_model_name") or _model(engine)
    return frozenset(str(name) for name in stated) if isinstance(stated, list) else frozenset({str(stated)})


def _shown(value: object) -> str:
    return "none" if value is None else compact_json(value)
