"""Whole command lines, environments and fleet entries of planned vLLM instances."""

from __future__ import annotations

import json
from typing import Any

import pytest
from engine_configs import (
    MODEL,
    FixedHost,
    engine_options,
    env_config,
    epd,
    files,
    layerwise,
    options_of,
    union,
    user_config,
    vllm_host,
)

from pymotor.engines import InstancePlan, PlanError, plan_instance
from pymotor.fleet import (
    ECDialect,
    ECTransfer,
    InstanceState,
    KVDialect,
    KVTransfer,
    Role,
    can_hand_over_embeddings,
    can_hand_over_kv,
)

SIZES = {"dp_size": 1, "tp_size": 2, "pp_size": 1}


def plan(config: dict[str, Any], role: str, index: int = 0, host: FixedHost | None = None, **env: Any) -> InstancePlan:
    return plan_instance(user_config(config), env_config(**env), Role(role), index, host or vllm_host())


def option(words: tuple[str, ...], name: str) -> str:
    """The word after an option that stands once."""
    assert words.count(name) == 1, words
    return words[words.index(name) + 1]


def setting(words: tuple[str, ...], name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(option(words, name))
    return found


def test_the_guides_encoder() -> None:
    (server,) = plan(epd(), "encode", 1).servers
    assert server.name == "encode-1"
    assert server.argv == (
        "/opt/vllm/bin/python",
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        MODEL,
        "--served-model-name",
        "qwen3",
        "--gpu-memory-utilization",
        "0.9",
        "--data-parallel-size",
        "1",
        "--tensor-parallel-size",
        "1",
        "--pipeline-parallel-size",
        "1",
        "--no-enable-expert-parallel",
        "--data-parallel-rpc-port",
        "9000",
        "--seed",
        "1024",
        "--max-model-len",
        "128000",
        "--trust-remote-code",
        "--no-enable-prefix-caching",
        "--allowed-local-media-path",
        "/mnt/share/media/",
        "--enforce-eager",
        "--ec-transfer-config",
        '{"ec_connector":"ECExampleConnector","ec_role":"ec_producer","ec_connector_extra_config":'
        '{"shared_storage_path":"/mnt/share/ec_cache"},"engine_id":"encode-1-id1"}',
        "--host",
        "127.0.0.1",
        "--port",
        "10000",
    )
    assert server.env == {"ASCEND_RT_VISIBLE_DEVICES": "0"}
    assert server.endpoint.url == "http://127.0.0.1:10000"
    assert server.health_path == "/health"


def test_the_guides_prefill_and_decode() -> None:
    host = vllm_host()
    prefill = plan(epd(), "prefill", host=host)
    decode = plan(epd(), "decode", host=host)
    kv = setting(prefill.servers[0].argv, "--kv-transfer-config")
    assert kv == {
        "kv_connector": "MooncakeLayerwiseConnector",
        "kv_buffer_device": "npu",
        "kv_role": "kv_producer",
        "kv_port": 30001,
        "engine_id": "prefill-0-id1",
        "kv_connector_extra_config": {"prefill": SIZES, "decode": SIZES},
    }
    other = setting(decode.servers[0].argv, "--kv-transfer-config")
    assert (other["kv_role"], other["kv_port"], other["engine_id"]) == ("kv_consumer", 30003, "decode-0-id2")
    assert prefill.warnings == (
        "kv_transfer_config.kv_parallel_size was left out: vllm 0.32.0 refuses it",
        "kv_transfer_config.kv_rank was left out: vllm 0.32.0 refuses it",
    )
    assert prefill.servers[0].env == {"ASCEND_RT_VISIBLE_DEVICES": "0,1"}
    assert decode.servers[0].env == {"ASCEND_RT_VISIBLE_DEVICES": "2,3"}
    assert prefill.instance.kv == KVTransfer(
        connector="MooncakeLayerwiseConnector", dialect=KVDialect.CALLBACK, produces=True, consumes=False
    )
    assert can_hand_over_kv(prefill.instance, decode.instance)
    assert not can_hand_over_kv(decode.instance, prefill.instance)


def test_the_fleet_entry() -> None:
    encode, prefill = plan(epd(), "encode").instance, plan(epd(), "prefill").instance
    assert encode.models == ("qwen3",)
    assert encode.engine == "vllm"
    assert encode.engine_version == "0.32.0"
    assert encode.state is InstanceState.INITIAL
    assert encode.max_model_len == 128000
    assert encode.allowed_local_media_path == "/mnt/share/media/"
    assert encode.ec == ECTransfer(
        connector="ECExampleConnector",
        dialect=ECDialect.STORE,
        produces=True,
        consumes=False,
        store="/mnt/share/ec_cache",
    )
    assert can_hand_over_embeddings(encode, prefill)
    assert not can_hand_over_embeddings(prefill, encode)


def test_keys_that_an_older_vllm_wants_stay() -> None:
    host = FixedHost(engine_version="0.11.0")
    made = plan(epd(), "prefill", host=host)
    kv = setting(made.servers[0].argv, "--kv-transfer-config")
    assert (kv["kv_parallel_size"], kv["kv_rank"]) == (1, 0)
    assert made.warnings == ()
    assert made.servers[0].argv[:2] == ("vllm", "serve")


def test_union_on_a_cpu_gets_defaults_that_env_json_overrides() -> None:
    made = plan(union(), "union", motor_engine_union_env={"OMP_NUM_THREADS": 4}, motor_common_env={"A": "b"})
    assert made.servers[0].env == {
        "A": "b",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "4",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert made.instance.kv is None
    assert made.instance.ec is None


def test_a_gpu_is_shown_by_cuda() -> None:
    config = epd()
    config["motor_deploy_config"]["hardware_type"] = "gpu"
    assert plan(config, "prefill").servers[0].env == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_no_devices_are_assumed_where_no_hardware_is_named() -> None:
    config = epd()
    del config["motor_deploy_config"]["hardware_type"]
    assert plan(config, "prefill").servers[0].env == {}


def test_devices_that_are_not_there_are_a_problem() -> None:
    host = FixedHost(devices=(4, 5, 6))
    assert plan(epd(), "prefill", host=host).servers[0].env == {"ASCEND_RT_VISIBLE_DEVICES": "4,5"}
    with pytest.raises(PlanError, match="need 2 devices and 1 are left"):
        plan(epd(), "decode", host=host)


def test_the_simulated_engine_takes_the_same_flags() -> None:
    config = epd()
    config["motor_engine_prefill_config"]["engine_type"] = "sim"
    real, simulated = plan(epd(), "prefill").servers[0], plan(config, "prefill").servers[0]
    assert simulated.argv[1:6] == ("-m", "pymotor", "sim-engine", "serve", MODEL)
    assert simulated.argv[6:] == real.argv[5:]
    assert simulated.env == {}


def test_nixl_instances_of_one_host_have_their_own_side_channels() -> None:
    config = epd()
    for role in ("prefill", "decode"):
        options_of(config, role)["kv_transfer_config"] = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    host = vllm_host()
    prefill, decode = plan(config, "prefill", host=host), plan(config, "decode", host=host)
    assert prefill.servers[0].env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5600"
    assert decode.servers[0].env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5601"
    assert decode.servers[0].env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "127.0.0.1"
    kv = setting(decode.servers[0].argv, "--kv-transfer-config")
    assert kv == {"kv_connector": "NixlConnector", "kv_role": "kv_consumer", "engine_id": "decode-0-id2"}
    assert prefill.instance.kv is not None
    assert prefill.instance.kv.handoff_seconds == 30.0


def test_a_restarted_instance_is_another_engine() -> None:
    host = vllm_host()
    first, second = plan(epd(), "prefill", host=host), plan(epd(), "prefill", host=host)
    ids = [setting(made.servers[0].argv, "--kv-transfer-config")["engine_id"] for made in (first, second)]
    assert ids[0] != ids[1]


def test_the_ports_in_env_json_are_preferred() -> None:
    config = epd()
    options_of(config, "prefill")["kv_transfer_config"] = {"kv_connector": "NixlConnector"}
    made = plan(config, "prefill", motor_engine_prefill_env={"VLLM_NIXL_SIDE_CHANNEL_PORT": 7100})
    assert made.servers[0].env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "7100"


@pytest.mark.parametrize("experts", [True, None])
def test_ranks_of_a_model_with_experts_are_servers_that_know_each_other(experts: bool | None) -> None:
    config = epd()
    options_of(config, "prefill").update(data_parallel_size=2, tensor_parallel_size=2)
    host = vllm_host()
    host.experts = experts
    made = plan(config, "prefill", host=host)
    assert [server.name for server in made.servers] == ["prefill-0-rank-0", "prefill-0-rank-1"]
    assert [server.endpoint.data_parallel_rank for server in made.servers] == [0, 1]
    assert [server.endpoint.id for server in made.servers] == ["prefill-0/0", "prefill-0/1"]
    for rank, server in enumerate(made.servers):
        assert option(server.argv, "--data-parallel-size") == "2"
        assert option(server.argv, "--data-parallel-rank") == str(rank)
        assert option(server.argv, "--data-parallel-address") == "127.0.0.1"
        assert option(server.argv, "--data-parallel-rpc-port") == "9000"
    assert [server.env["ASCEND_RT_VISIBLE_DEVICES"] for server in made.servers] == ["0,1", "2,3"]
    settings = [setting(server.argv, "--kv-transfer-config") for server in made.servers]
    assert [found["kv_port"] for found in settings] == [30001, 30001]
    assert len({found["engine_id"] for found in settings}) == 2
    assert made.instance.endpoints == tuple(server.endpoint for server in made.servers)


def test_ranks_of_a_dense_model_are_engines_of_their_own() -> None:
    config = epd()
    options_of(config, "prefill").update(data_parallel_size=2, tensor_parallel_size=2)
    host = vllm_host()
    host.experts = False
    made = plan(config, "prefill", host=host)
    for server in made.servers:
        assert not [word for word in server.argv if word.startswith("--data-parallel")]
        assert server.endpoint.data_parallel_rank is None
    ports = [setting(server.argv, "--kv-transfer-config")["kv_port"] for server in made.servers]
    assert ports == [30001, 30003]


def test_without_multiple_endpoints_the_engine_balances_its_ranks() -> None:
    config = epd()
    options_of(config, "prefill").update(data_parallel_size=2, enable_multi_endpoints=False)
    (server,) = plan(config, "prefill").servers
    assert "--data-parallel-rank" not in server.argv
    assert not [word for word in server.argv if "multi-endpoints" in word]
    assert server.endpoint.data_parallel_rank is None
    assert server.env["ASCEND_RT_VISIBLE_DEVICES"] == "0,1,2,3"


def test_children_of_a_multi_connector_are_completed() -> None:
    config = epd()
    pool = {"kv_connector": "AscendStoreConnector", "kv_connector_extra_config": {"backend": "mooncake"}}
    options_of(config, "prefill")["kv_transfer_config"] = {
        "kv_connector": "MultiConnector",
        "kv_connector_extra_config": {"connectors": [layerwise("kv_both"), pool]},
    }
    made = plan(config, "prefill")
    kv = setting(made.servers[0].argv, "--kv-transfer-config")
    hand, store = kv["kv_connector_extra_config"]["connectors"]
    assert (kv["kv_role"], hand["kv_role"], store["kv_role"]) == ("kv_producer",) * 3
    assert hand["kv_connector_extra_config"] == {"prefill": SIZES, "decode": SIZES}
    assert "kv_rank" not in hand
    assert store["kv_connector_extra_config"] == {"backend": "mooncake", "lookup_rpc_port": 50100}
    assert made.instance.kv is not None
    assert made.instance.kv.connector == "MooncakeLayerwiseConnector"


EVENTS = {"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:6667", "topic": "kv"}


def events_settings(host: FixedHost, **changes: str) -> list[dict[str, Any]]:
    config = union(**{"kv-events-config": {**EVENTS, **changes}})
    return [setting(plan(config, "union", n, host).servers[0].argv, "--kv-events-config") for n in range(2)]


def test_kv_events_of_one_host_are_published_on_their_own_ports() -> None:
    found = events_settings(FixedHost(address="10.0.0.1", engine_version="0.32.0"))
    assert found[0] == EVENTS
    assert (found[1]["endpoint"], found[1]["replay_endpoint"]) == ("tcp://*:5558", "tcp://*:6668")


def test_kv_events_of_a_local_fleet_stay_on_its_machine() -> None:
    """vLLM connects to an endpoint that names an address; a `*` with port 0 it takes for `VLLM_HOST_IP`."""
    found = events_settings(vllm_host())
    assert [config["endpoint"] for config in found] == ["tcp://*:0"] * 2
    assert [config["replay_endpoint"] for config in found] == ["tcp://127.0.0.1:6667", "tcp://127.0.0.1:6668"]
    config = union(**{"kv-events-config": EVENTS})
    assert plan(config, "union", 0, vllm_host()).servers[0].env["VLLM_HOST_IP"] == "127.0.0.1"
    assert "VLLM_HOST_IP" not in plan(union(), "union", 0, vllm_host()).servers[0].env


def test_a_vllm_that_does_not_tell_its_free_port_gets_one() -> None:
    found = events_settings(FixedHost(engine_version="0.11.0"))
    assert found[0] == EVENTS


def test_where_engines_connect_to_all_connect_to_the_same() -> None:
    found = events_settings(FixedHost(address="10.0.0.1"), endpoint="tcp://conductor:5557")
    assert {config["endpoint"] for config in found} == {"tcp://conductor:5557"}


def test_the_fleet_is_told_where_kv_events_are_published() -> None:
    events = EVENTS | {"enable_kv_cache_events": True}
    host = FixedHost(address="10.0.0.1", engine_version="0.32.0")
    config = union(**{"kv-events-config": events})
    for index in range(2):
        (server,) = plan(config, "union", index, host).servers
        (told,) = server.endpoint.kv_events
        assert (told.rank, told.port, told.replay_port, told.topic) == (0, 5557 + index, 6667 + index, EVENTS["topic"])
    (silent,) = plan(union(**{"kv-events-config": EVENTS | {"enable_kv_cache_events": False}}), "union").servers
    assert silent.endpoint.kv_events == ()


def test_the_fleet_is_told_of_the_kv_events_of_each_rank() -> None:
    events = EVENTS | {"enable_kv_cache_events": True}
    host = FixedHost(address="10.0.0.1", engine_version="0.32.0")
    config = union(**{"kv-events-config": events, "data_parallel_size": 2, "enable_multi_endpoints": False})
    (server,) = plan(config, "union", 0, host).servers
    assert [(one.rank, one.port, one.replay_port) for one in server.endpoint.kv_events] == [
        (0, 5557, 6667),
        (1, 5558, 6668),
    ]


def test_an_unknown_connector_needs_a_stated_dialect() -> None:
    config = epd()
    options_of(config, "prefill")["kv_transfer_config"] = {"kv_connector": "OurConnector"}
    with pytest.raises(PlanError, match="kv_dialect"):
        plan(config, "prefill")
    config["motor_engine_prefill_config"]["kv_dialect"] = "store"
    kv = plan(config, "prefill").instance.kv
    assert kv is not None
    assert kv.dialect is KVDialect.STORE


def test_a_union_engine_may_use_any_cache_connector() -> None:
    made = plan(union(kv_transfer_config={"kv_connector": "LMCacheConnectorV1"}), "union")
    assert made.instance.kv is None
    assert setting(made.servers[0].argv, "--kv-transfer-config")["kv_role"] == "kv_both"


def test_transfer_settings_may_be_json_text() -> None:
    config = epd()
    options_of(config, "prefill")["kv_transfer_config"] = json.dumps(layerwise("kv_both"))
    assert setting(plan(config, "prefill").servers[0].argv, "--kv-transfer-config")["kv_role"] == "kv_producer"
    options_of(config, "prefill")["kv_transfer_config"] = "{"
    with pytest.raises(PlanError, match="neither an object nor JSON text"):
        plan(config, "prefill")


@pytest.mark.parametrize(
    ("role", "option_name", "message"),
    [
        ("prefill", "kv_transfer_config", "no kv_transfer_config"),
        ("decode", "kv_transfer_config", "no kv_transfer_config"),
        ("encode", "ec-transfer-config", "no ec_transfer_config"),
        ("prefill", "model", "names no model"),
    ],
)
def test_what_is_missing_is_named(role: str, option_name: str, message: str) -> None:
    config = epd()
    del options_of(config, role)[option_name]
    with pytest.raises(PlanError, match=message):
        plan(config, role)


def test_a_role_without_section_cannot_be_planned() -> None:
    with pytest.raises(PlanError, match="motor_engine_union_config"):
        plan(epd(), "union")


def test_what_pymotor_sets_is_not_passed_on() -> None:
    made = plan(union(host="0.0.0.0", port=80, nnodes=2, node_rank=1), "union")
    words = made.servers[0].argv
    assert (option(words, "--host"), option(words, "--port")) == ("127.0.0.1", "10000")
    assert "--nnodes" not in words
    assert made.warnings == tuple(
        f"{name} was not passed on: PyMotor sets it" for name in ("host", "port", "nnodes", "node_rank")
    )


def test_instances_meet_in_the_shared_directory_where_none_is_named(tmp_path: Any) -> None:
    config = epd()
    for role in ("encode", "prefill"):
        options_of(config, role)["ec-transfer-config"] = {"ec_connector": "ECExampleConnector"}
    host = FixedHost(shared_directory=tmp_path)
    encode, prefill = plan(config, "encode", host=host), plan(config, "prefill", host=host)
    assert encode.instance.ec is not None
    assert encode.instance.ec.store == str(tmp_path / "ec")
    assert can_hand_over_embeddings(encode.instance, prefill.instance)


def test_kv_of_another_layout_does_not_pair() -> None:
    config = epd()
    options_of(config, "decode")["block_size"] = 64
    assert not can_hand_over_kv(plan(config, "prefill").instance, plan(config, "decode").instance)


def test_a_tool_parser_turns_tool_choice_on() -> None:
    assert "--enable-auto-tool-choice" in plan(union(tool_call_parser="hermes"), "union").servers[0].argv
    chosen = union(tool_call_parser="hermes", enable_auto_tool_choice=False)
    assert "--no-enable-auto-tool-choice" in plan(chosen, "union").servers[0].argv


@pytest.mark.parametrize(
    ("written", "tokens"), [(4096, 4096), ("128k", 128000), ("4K", 4096), ("auto", None), (-1, None)]
)
def test_max_model_len_as_engines_take_it(written: object, tokens: int | None) -> None:
    assert plan(union(max_model_len=written), "union").instance.max_model_len == tokens


def test_encoder_and_reader_by_mooncake_have_their_own_ports() -> None:
    config = epd()
    for role in ("encode", "prefill"):
        options_of(config, role)["ec-transfer-config"] = {"ec_connector": "ECMooncakeConnector", "ec_port": 15000}
    host = vllm_host()
    settings = [
        setting(plan(config, role, host=host).servers[0].argv, "--ec-transfer-config") for role in ("encode", "prefill")
    ]
    assert [found["ec_port"] for found in settings] == [15000, 15001]
    assert settings[0]["ec_ip"] == "127.0.0.1"
    made = plan(config, "prefill").instance
    assert made.ec is not None
    assert made.ec.address == "tcp://127.0.0.1:15000"
    assert made.ec_address_of("prefill-0/0") == made.ec.address
    encoder = plan(config, "encode").instance.ec
    assert encoder is not None
    assert encoder.address == ""
    assert files("ec_producer")["ec_role"] == settings[0]["ec_role"]
    assert engine_options()["model"] == MODEL


def mooncake(config: dict[str, Any], **extra: object) -> dict[str, Any]:
    setting = {"kv_connector": "MooncakeConnector", "kv_connector_extra_config": extra}
    options_of(config, "prefill")["kv_transfer_config"] = setting
    options_of(config, "decode")["kv_transfer_config"] = setting
    return config


def test_prefills_bootstrap_server_is_told() -> None:
    host = vllm_host()
    first, second = (plan(mooncake(epd()), "prefill", number, host).instance for number in range(2))
    assert (first.bootstrap_of("prefill-0/0"), second.bootstrap_of("prefill-1/0")) == (
        "http://127.0.0.1:8998",
        "http://127.0.0.1:9000",
    )
    decode = plan(mooncake(epd()), "decode", host=host).instance
    assert decode.bootstrap_of("decode-0/0") == ""
    elsewhere = plan(mooncake(epd(), bootstrap_server_address="10.0.0.9:7000"), "prefill").instance
    assert elsewhere.bootstrap_of("prefill-0/0") == "http://10.0.0.9:7000"


@pytest.mark.parametrize("experts", [True, False])
def test_each_ranks_server_has_its_own_bootstrap_server(experts: bool) -> None:
    config = mooncake(epd())
    options_of(config, "prefill").update(data_parallel_size=2, tensor_parallel_size=1)
    host = vllm_host()
    host.experts = experts
    made = plan(config, "prefill", host=host)
    told = [f"http://127.0.0.1:{server.env['VLLM_MOONCAKE_BOOTSTRAP_PORT']}" for server in made.servers]
    assert told == [made.instance.bootstrap_of(server.endpoint.id) for server in made.servers]
    assert len(set(told)) == 2


@pytest.mark.parametrize(
    ("written", "adapters"),
    [
        ("ada=/adapters/ada", ("ada",)),
        (["ada=/adapters/ada", '{"name": "bob", "path": "/adapters/bob", "base_model_name": "qwen3"}'], ("ada", "bob")),
        ([{"name": "ada", "path": "/adapters/ada"}, {"name": "qwen3", "path": "/x"}], ("ada",)),
        (["/adapters/ada", "{", '{"name": ["ada"]', 7, None, {"path": "/x"}], ()),
    ],
)
def test_adapters_are_served_by_their_names(written: object, adapters: tuple[str, ...]) -> None:
    assert plan(union(**{"lora-modules": written}), "union").instance.models == ("qwen3", *adapters)
