"""`--engine`: what stays, what is replaced, and that the result can always be planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.config import EnvConfig, UserConfig, load_config
from pymotor.config.user import ROLES
from pymotor.engines import HostResources, plan_instance
from pymotor.engines.checks import check_engines
from pymotor.fleet import KVDialect, Role, can_hand_over_embeddings, can_hand_over_kv
from pymotor.local.substitute import LocalMeans, fitting_counts, substitute

EXAMPLES = Path(__file__).parents[3] / "examples" / "infer_engines"
STORE = Path("/tmp/store")
SIM = LocalMeans(engine="sim", store=STORE)
VLLM_CPU = LocalMeans(engine="vllm-cpu", store=STORE, model=Path("/tmp/tiny"), instance_limit=3)


def load(directory: str) -> tuple[UserConfig, EnvConfig]:
    loaded = load_config(EXAMPLES / directory / "user_config.json", EXAMPLES / directory / "env.json")
    assert loaded.user is not None
    return loaded.user, loaded.env


def plan_all(user: UserConfig, env: EnvConfig) -> dict[str, Any]:
    host = HostResources(port_is_free=lambda address, port: True)
    return {
        f"{role}-{index}": plan_instance(user, env, Role(role), index, host)
        for role in ROLES
        for index in range(user.instance_count(role))
    }


def test_the_encode_prefill_decode_configuration_for_ascend_becomes_simulated() -> None:
    user, env = load("vllm/epd")
    result = substitute(user, env, SIM)
    replaced = {one.where: (one.old, one.new) for one in result.replaced}
    assert replaced["$.motor_deploy_config.hardware_type"] == ("800I_A2", "cpu")
    assert replaced["$.motor_engine_prefill_config.engine_type"] == ("vllm", "sim")
    assert replaced["$.motor_engine_prefill_config.engine_config.kv_transfer_config"] == (
        "MooncakeLayerwiseConnector",
        "NixlConnector",
    )
    assert "HCCL_BUFFSIZE" in replaced["env.json"][0]
    for role in ("encode", "prefill", "decode"):
        before, after = user.engine_section(role), result.user.engine_section(role)
        assert before is not None
        assert after is not None
        transfers = {"ec_transfer_config", "kv_transfer_config"}
        assert {k: v for k, v in after.options.items() if k not in transfers} == {
            k: v for k, v in before.options.items() if k not in transfers
        }
        assert result.user.instance_count(role) == user.instance_count(role)
    plans = plan_all(result.user, result.env)
    prefill, decode, encode = (plans[name].instance for name in ("prefill-0", "decode-0", "encode-1"))
    assert can_hand_over_kv(prefill, decode)
    assert can_hand_over_embeddings(encode, prefill)
    assert prefill.kv.dialect is KVDialect.PULL
    assert encode.ec.store == str(STORE)


@pytest.mark.parametrize("directory", ["vllm", "vllm/epd", "vllm/pd_hybrid", "sim/epd", "sim/pd_hybrid"])
@pytest.mark.parametrize("means", [SIM, VLLM_CPU])
def test_every_example_runs_with_every_engine(directory: str, means: LocalMeans) -> None:
    user, env = load(directory)
    result = substitute(user, env, means)
    assert not [problem for problem in check_engines(result.user, "file") if problem.severity == "error"]
    for plan in plan_all(result.user, result.env).values():
        assert plan.instance.engine == ("sim" if means.engine == "sim" else "vllm")
        if means.model is not None:
            assert str(means.model) in plan.servers[0].argv
    again = substitute(result.user, result.env, means)
    assert again.user == result.user


def test_a_configuration_that_fits_is_left_alone() -> None:
    user, env = load("sim/pd_hybrid")
    result = substitute(user, env, SIM)
    assert result.replaced == ()
    before, after = user.engine_section("union"), result.user.engine_section("union")
    assert before is not None
    assert after is not None
    assert after.options == before.options
    assert after.engine_type == before.engine_type
    assert result.user.motor_deploy_config == user.motor_deploy_config
    assert result.env == env


def test_real_vllm_keeps_the_name_clients_use_and_drops_what_is_for_the_hardware() -> None:
    user, env = load("vllm/epd")
    content = user.model_dump(by_alias=True, exclude_unset=True)
    del content["motor_engine_decode_config"]["engine_config"]["served_model_name"]
    result = substitute(UserConfig.model_validate(content), env, VLLM_CPU)
    section = result.user.engine_section("decode")
    assert section is not None
    assert section.options["served_model_name"] == "/mnt/weight/Qwen3-VL-30B-A3B-Instruct"
    assert section.options["model"] == "/tmp/tiny"
    assert section.options["kv_transfer_config"]["kv_buffer_device"] == "cpu"
    assert "tensor_parallel_size" not in section.options
    assert sum(result.user.instance_count(role) for role in ROLES) == 3


def test_sglang_and_services_of_other_connectors_are_replaced() -> None:
    user, env = load("sim/epd")
    content = user.model_dump(by_alias=True, exclude_unset=True)
    content["motor_coordinator_config"]["scheduler_config"]["deploy_mode"] = "cdp_separate"
    content["kv_cache_pool_config"] = {"metadata_server": "P2PHANDSHAKE"}
    content["kv_conductor_config"] = {"http_server_port": 13333}
    content["motor_deploy_config"]["tls_config"] = {"infer_tls_config": {"enable_tls": True}}
    for role in ("prefill", "decode"):
        content[f"motor_engine_{role}_config"] = {
            "engine_type": "sglang",
            "engine_config": {"model_path": "/m", "context_length": 512, "tp_size": 4},
        }
    result = substitute(UserConfig.model_validate(content), env, SIM)
    decode = result.user.engine_section("decode")
    assert decode is not None
    assert decode.engine_type == "sim"
    assert decode.options["model"] == "/m"
    assert decode.options["max_model_len"] == 512
    assert decode.options["kv_transfer_config"]["kv_role"] == "kv_consumer"
    told = " ".join(f"{one.where} {one.old} {one.new}" for one in result.replaced)
    for word in ("cdp_separate", "kv_cache_pool_config", "tls_config", "tp_size", "sglang"):
        assert word in told
    assert result.user.kv_cache_pool_config is None
    assert result.user.kv_conductor_config is not None


@given(
    st.dictionaries(st.sampled_from(ROLES), st.integers(1, 16), min_size=1),
    st.integers(0, 70),
)
def test_counts_are_cut_to_what_fits_but_no_role_is_lost(wanted: dict[str, int], limit: int) -> None:
    counts = fitting_counts(wanted, limit)
    assert counts.keys() == wanted.keys()
    assert all(1 <= counts[role] <= wanted[role] for role in wanted)
    assert sum(counts.values()) == min(sum(wanted.values()), max(limit, len(wanted)))
    cut = [counts[role] for role in wanted if counts[role] < wanted[role]]
    assert not cut or max(counts.values()) - min(cut) <= 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["ec-transfer-config", "kv_transfer_config", "model", "served_model_name", "seed", "--dtype"])


@given(st.dictionaries(keys | st.text(max_size=8), json_values, max_size=6), st.sampled_from([SIM, VLLM_CPU]))
def test_no_engine_option_whatever_it_holds_breaks_the_replacement(options: dict[str, Any], means: LocalMeans) -> None:
    user, env = load("vllm/epd")
    content = json.loads(user.model_dump_json(by_alias=True, exclude_unset=True))
    content["motor_engine_prefill_config"]["engine_config"] = options
    result = substitute(UserConfig.model_validate(content), env, means)
    assert result.user.engine_section("prefill") is not None
