"""Broken configurations, one fault each: what is told, and where."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_configs import FixedHost, env_config, epd, files, layerwise, options_of, union, user_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymotor.config import Problem
from pymotor.engines import PlanError, check_engines, plan_instance
from pymotor.fleet import Role

Config = dict[str, Any]
EVENTS: Config = {"publisher": "zmq", "enable_kv_cache_events": True, "endpoint": "tcp://*:5557"}


def problems(config: Config) -> list[Problem]:
    return check_engines(user_config(config), "user_config.json")


def errors(config: Config) -> list[Problem]:
    return [problem for problem in problems(config) if problem.severity == "error"]


def clean() -> Config:
    """The guides' configuration without the keys that are left out."""
    config = epd()
    for role in ("prefill", "decode"):
        settings_of_role = options_of(config, role)["kv_transfer_config"]
        del settings_of_role["kv_rank"], settings_of_role["kv_parallel_size"]
    return config


def events(**more: object) -> Callable[[Config], None]:
    """KV events of prefill engines, with these keys."""

    def change(config: Config) -> None:
        options_of(config, "prefill")["kv-events-config"] = {**EVENTS, **more}

    return change


@pytest.mark.parametrize(
    "more",
    [{}, {"replay_endpoint": None}, {"replay_endpoint": "tcp://10.0.0.1:6667", "topic": "kv", "hwm": 0},
     {"endpoint": "tcp://[::1]:5557"}, {"endpoint": "tcp://*:0", "publisher": None, "buffer_steps": 5}],
)  # fmt: skip
def test_kv_events_that_engines_understand(more: Config) -> None:
    config = clean()
    events(**more)(config)
    assert problems(config) == []


@pytest.mark.parametrize(
    ("more", "message"), [({"endpoint": "ipc:///tmp/a"}, "follows tcp:// only"), ({"zzz": 1}, "knows no such key")]
)
def test_kv_events_that_may_be_meant(more: Config, message: str) -> None:
    config = clean()
    events(**more)(config)
    (problem,) = problems(config)
    assert problem.severity == "warning"
    assert problem.path == f"$.motor_engine_prefill_config.engine_config.kv-events-config.{next(iter(more))}"
    assert message in str(problem)


def test_a_right_configuration_has_no_problems() -> None:
    assert problems(clean()) == []
    assert problems(union()) == []


def test_the_guides_configuration_has_warnings_only() -> None:
    found = problems(epd())
    assert {problem.severity for problem in found} == {"warning"}
    assert {problem.path.rpartition(".")[2] for problem in found} == {"kv_rank", "kv_parallel_size"}


def changing(role: str, **changes: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for name, value in changes.items():
            key = next((key for key in options_of(config, role) if key.replace("-", "_") == name), name)
            if value is None:
                options_of(config, role).pop(key, None)
            else:
                options_of(config, role)[key] = value

    return change


def kv(role: str, **changes: Any) -> Callable[[Config], None]:
    return changing(
        role, kv_transfer_config=layerwise(f"kv_{'producer' if role == 'prefill' else 'consumer'}") | changes
    )


def ec(role: str, **changes: Any) -> Callable[[Config], None]:
    return changing(role, ec_transfer_config=files("ec_producer" if role == "encode" else "ec_consumer") | changes)


def multi(children: object) -> dict[str, Any]:
    return {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": children}}


def engine_type(role: str, name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config[f"motor_engine_{role}_config"]["engine_type"] = name

    return change


BROKEN: list[tuple[Callable[[Config], None], str, str]] = [
    (changing("prefill", model=None), "prefill", "names no model"),
    (changing("prefill", model=7), "prefill.model", "not a model"),
    (changing("prefill", model="/other/model"), "prefill.model", "same string"),
    (changing("decode", model="/other/model"), "decode.model", "same string"),
    (changing("decode", served_model_name="other"), "decode.served_model_name", "no request reaches both"),
    (changing("decode", served_model_name=[]), "decode.served_model_name", "not a name"),
    (changing("decode", kv_transfer_config=None), "decode", "has no kv_transfer_config"),
    (changing("prefill", kv_transfer_config=None), "prefill", "has no kv_transfer_config"),
    (changing("prefill", kv_transfer_config="{"), "prefill.kv_transfer_config", "neither an object nor JSON"),
    (changing("prefill", kv_transfer_config=[1]), "prefill.kv_transfer_config", "must be an object"),
    (kv("prefill", kv_connector=None), "prefill.kv_transfer_config.kv_connector", "names no connector"),
    (kv("prefill", kv_connector="NixlConector"), "prefill.kv_transfer_config.kv_connector", "not a connector"),
    (kv("decode", kv_connector="NixlConnector"), "decode.kv_transfer_config.kv_connector", "prefill hands over by"),
    (
        kv("prefill", kv_connector_extra_config="x"),
        "prefill.kv_transfer_config.kv_connector_extra_config",
        "not an object",
    ),
    (
        changing("prefill", kv_transfer_config=multi([layerwise("kv_both")])),
        "prefill.kv_transfer_config.kv_connector_extra_config.connectors",
        "at least two",
    ),
    (
        changing("prefill", kv_transfer_config=multi([layerwise("kv_both"), {}])),
        "prefill.kv_transfer_config.kv_connector_extra_config.connectors[1].kv_connector",
        "names no connector",
    ),
    (changing("encode", ec_transfer_config=None), "encode", "has no ec_transfer_config"),
    (changing("prefill", ec_transfer_config=None), "prefill", "nobody reads"),
    (ec("encode", ec_role="ec_consumer"), "encode.ec-transfer-config.ec_role", "does not fit encode"),
    (ec("prefill", ec_role="ec_producer"), "prefill.ec-transfer-config.ec_role", "does not fit prefill"),
    (ec("prefill", ec_connector="ECCPUConnector"), "prefill.ec-transfer-config.ec_connector", "cannot hand over"),
    (ec("prefill", ec_connector="Ours"), "prefill.ec-transfer-config.ec_connector", "not a connector"),
    (
        ec("prefill", ec_connector_extra_config={"shared_storage_path": "/elsewhere"}),
        "prefill.ec-transfer-config.ec_connector_extra_config.shared_storage_path",
        "would not be found",
    ),
    (changing("encode", mm_processor_cache_gb=0), "encode.mm_processor_cache_gb", "no other engine finds"),
    (changing("prefill", mm_processor_cache_gb="0"), "prefill.mm_processor_cache_gb", "no embedding is found"),
    (changing("encode", mm_processor_kwargs={"max_pixels": 9}), "encode.mm_processor_kwargs", "prefill has none"),
    (changing("prefill", media_io_kwargs={"video": {}}), "prefill.media_io_kwargs", "encode has none"),
    (changing("prefill", mm_hasher_algorithm="sha256"), "prefill.mm_hasher_algorithm", "encode has none"),
    (changing("decode", kv_cache_dtype="fp8"), "decode.kv_cache_dtype", "KV cannot be handed over"),
    (changing("prefill", block_size=64), "prefill.block_size", "KV cannot be handed over"),
    (changing("prefill", enforce_eager="true"), "prefill.enforce_eager", "a boolean"),
    (changing("prefill", enable_prefix_caching=True), "prefill.no-enable-prefix-caching", "contradicts"),
    (changing("prefill", enable_multi_endpoints="no"), "prefill.enable_multi_endpoints", "a boolean"),
    (events(endpoint="*:5557"), "prefill.kv-events-config.endpoint", "no address"),
    (events(endpoint="tcp://*"), "prefill.kv-events-config.endpoint", "no address"),
    (events(endpoint="tcp://*:70000"), "prefill.kv-events-config.endpoint", "no address"),
    (events(endpoint=5557), "prefill.kv-events-config.endpoint", "no address"),
    (events(replay_endpoint="http://*:6667"), "prefill.kv-events-config.replay_endpoint", "no address"),
    (events(enable_kv_cache_events="yes"), "prefill.kv-events-config.enable_kv_cache_events", "not understood"),
    (events(publisher="kafka"), "prefill.kv-events-config.publisher", "not understood"),
    (events(buffer_steps="many"), "prefill.kv-events-config.buffer_steps", "not understood"),
    (events(topic=7), "prefill.kv-events-config.topic", "not understood"),
    (events(endpiont="tcp://*:5557"), "prefill.kv-events-config.endpiont", "know no such key"),
    (engine_type("encode", "sglang"), "encode", "do not encode"),
    (engine_type("decode", "sim"), "decode", "different engines"),
]


@pytest.mark.parametrize(("change", "place", "message"), BROKEN, ids=[f"{place}: {text}" for _, place, text in BROKEN])
def test_a_fault_is_told_where_it_is(change: Callable[[Config], None], place: str, message: str) -> None:
    config = clean()
    change(config)
    role, _, inside = place.partition(".")
    expected = f"$.motor_engine_{role}_config.engine_config" + (f".{inside}" if inside else "")

    def where(problem: Problem) -> str:
        return problem.path.replace('["', ".").replace('"]', "").replace("engine_type", "engine_config")

    matching = [problem for problem in errors(config) if message in problem.message]
    assert expected in [where(problem) for problem in matching], [str(problem) for problem in errors(config)]
    assert all(problem.file == "user_config.json" for problem in matching)
    assert all(problem.allowed or problem.suggestion for problem in matching)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changing("prefill", host="0.0.0.0"), "PyMotor sets it"),
        (kv("prefill", kv_rank=0), "refuse"),
        (kv("prefill", kv_role="kv_consumer"), "started as kv_producer"),
        (changing("decode", max_model_len=4096), "may not fit the other"),
        (changing("decode", **{"ec-transfer-config": files("ec_consumer")}), "no prefill instance is left"),
    ],
)
def test_what_is_only_odd_is_a_warning(change: Callable[[Config], None], message: str) -> None:
    config = clean()
    change(config)
    assert errors(config) == []
    assert [problem for problem in problems(config) if message in problem.message]


def test_nobody_needs_to_agree_with_an_encoder_that_is_not_asked_for() -> None:
    config = clean()
    changing("encode", model="/other/model")(config)
    assert errors(config)
    config["motor_deploy_config"]["e_instances_num"] = 0
    assert errors(config) == []


def test_a_close_name_is_suggested() -> None:
    config = clean()
    kv("prefill", kv_connector="NixlConector")(config)
    assert any("NixlConnector" in problem.suggestion for problem in errors(config))


def test_an_unknown_connector_with_a_stated_dialect_is_right() -> None:
    config = clean()
    for role in ("prefill", "decode"):
        kv(role, kv_connector="OurConnector")(config)
        config[f"motor_engine_{role}_config"]["kv_dialect"] = "pull"
    assert errors(config) == []


def test_the_shared_kv_directory_must_be_one() -> None:
    config = clean()
    for role in ("prefill", "decode"):
        extra = {"shared_storage_path": f"/kv/{role}"}
        changing(role, kv_transfer_config={"kv_connector": "ExampleConnector", "kv_connector_extra_config": extra})(
            config
        )
    assert [problem for problem in errors(config) if "its KV would not be found" in problem.message]


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
connector_names = st.sampled_from(
    ["NixlConnector", "MultiConnector", "MooncakeConnectorV1", "AscendStoreConnector", "ExampleConnector", "Ours"]
)
transfer_settings = st.fixed_dictionaries(
    {"kv_connector": st.one_of(connector_names, json_values)},
    optional={
        "kv_port": json_values,
        "kv_role": json_values,
        "kv_connector_extra_config": st.one_of(
            json_values,
            st.fixed_dictionaries(
                {"connectors": st.lists(st.fixed_dictionaries({"kv_connector": connector_names}), max_size=3)},
                optional={"prefill": json_values, "shared_storage_path": json_values},
            ),
        ),
    },
)
READ_OPTIONS = """
model served_model_name data_parallel_size max_model_len block_size ec_transfer_config kv-events-config
mm_processor_cache_gb mm_processor_kwargs enable_prefix_caching no-enable-prefix-caching enable_multi_endpoints
data_parallel_rpc_port
"""
any_options = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(READ_OPTIONS.split(), json_values),
        "kv_transfer_config": st.one_of(transfer_settings, json_values),
    },
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(any_options, any_options)
def test_no_configuration_breaks_the_checks_or_the_plan(prefill: Config, decode: Config) -> None:
    """Whatever stands in engine_config: problems or a PlanError, never another fault."""
    config = clean()
    options_of(config, "prefill").update(prefill)
    config["motor_engine_decode_config"]["engine_config"] = decode
    user = user_config(config)
    for problem in check_engines(user, "user_config.json"):
        str(problem)
    for role in (Role.PREFILL, Role.DECODE):
        sizes = user.engine_section(role.value).parallel_sizes()  # type: ignore[union-attr]
        if sizes is not None and sizes.devices > 64:
            continue
        with contextlib.suppress(PlanError):
            plan_instance(user, env_config(), role, 0, FixedHost())


def test_what_the_checks_accept_can_be_planned() -> None:
    user = user_config(clean())
    host = FixedHost()
    for role in (Role.ENCODE, Role.PREFILL, Role.DECODE):
        assert plan_instance(user, env_config(), role, 0, host).servers


SEEDS = Path(__file__).parent.parent / "config" / "seeds"


def test_the_seeds_configuration_has_no_errors() -> None:
    config = json.loads((SEEDS / "epd_user_config.json").read_text(encoding="utf-8"))
    assert errors(config) == []
