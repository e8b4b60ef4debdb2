"""Instances that lie on several nodes: what each node starts of them."""

from __future__ import annotations

from typing import Any

import pytest
from engine_configs import FixedHost, engine_options, env_config, epd, options_of, user_config
from hypothesis import given
from hypothesis import strategies as st

from pymotor.engines import InstancePlan, PlanError, plan_instance
from pymotor.engines.parts import WHOLE, InstancePart, spread_of
from pymotor.fleet import Role

MASTER = "10.0.0.1"


def option(words: tuple[str, ...], name: str) -> str | None:
    """The word after an option; None where it does not stand, empty where nothing follows."""
    if name not in words:
        return None
    assert words.count(name) == 1, words
    return (*words, "")[words.index(name) + 1]


def parts(config: dict[str, Any], nodes: int, role: str = "prefill", experts: bool = True) -> list[InstancePlan]:
    """The plan of each node."""
    planned = []
    for node_rank in range(nodes):
        host = FixedHost(python="/opt/vllm/bin/python", engine_version="0.32.0", address=f"10.0.0.{node_rank + 1}")
        host.experts = experts
        part = InstancePart(node_rank=node_rank, nodes=nodes, master_address=MASTER, identity="run-1")
        planned.append(plan_instance(user_config(config), env_config(), Role(role), 0, host, part))
    return planned


def prefill(**changes: Any) -> dict[str, Any]:
    config = epd()
    options_of(config, "prefill").update(changes)
    return config


def test_data_parallel_ranks_are_counted_through_all_nodes() -> None:
    planned = parts(prefill(data_parallel_size=4), 2)
    servers = [server for plan in planned for server in plan.servers]
    assert [server.endpoint.id for server in servers] == [f"prefill-0/{rank}" for rank in range(4)]
    assert [server.name for server in servers] == [f"prefill-0-rank-{rank}" for rank in range(4)]
    assert [server.endpoint.data_parallel_rank for server in servers] == [0, 1, 2, 3]
    assert [server.endpoint.url.split(":")[1] for server in servers] == ["//10.0.0.1"] * 2 + ["//10.0.0.2"] * 2
    for rank, server in enumerate(servers):
        assert option(server.argv, "--data-parallel-rank") == str(rank)
        assert option(server.argv, "--data-parallel-size") == "4"
        assert option(server.argv, "--data-parallel-address") == MASTER
        assert option(server.argv, "--data-parallel-rpc-port") == "9000"
        assert option(server.argv, "--nnodes") is None
        assert not server.headless
    assert [server.env["ASCEND_RT_VISIBLE_DEVICES"] for server in servers] == ["0,1", "2,3", "0,1", "2,3"]
    assert [len(plan.instance.endpoints) for plan in planned] == [2, 2]
    assert {plan.instance.pairing for plan in planned} == {planned[0].instance.pairing}


def test_the_rpc_port_is_the_same_on_all_nodes_without_being_configured() -> None:
    config = prefill(data_parallel_size=2)
    del options_of(config, "prefill")["data_parallel_rpc_port"]
    ports = [option(plan.servers[0].argv, "--data-parallel-rpc-port") for plan in parts(config, 2)]
    assert ports == ["29550", "29550"]


def test_ranks_of_a_dense_model_may_lie_on_several_nodes() -> None:
    for rank, plan in enumerate(parts(prefill(data_parallel_size=2), 2, experts=False)):
        (server,) = plan.servers
        assert server.endpoint.id == f"prefill-0/{rank}"
        assert not [word for word in server.argv if word.startswith("--data-parallel")]


@pytest.mark.parametrize("stated", [{}, {"nnodes": 2, "master_port": 29700}])
def test_a_rank_on_several_nodes_answers_on_the_first(stated: dict[str, int]) -> None:
    head, other = parts(prefill(tensor_parallel_size=4, **stated), 2)
    for node_rank, plan in enumerate((head, other)):
        (server,) = plan.servers
        assert option(server.argv, "--nnodes") == "2"
        assert option(server.argv, "--node-rank") == str(node_rank)
        assert option(server.argv, "--master-addr") == MASTER
        assert option(server.argv, "--master-port") == str(stated.get("master_port", 29501))
        assert ("--headless" in server.argv) is server.headless is (node_rank > 0)
        assert server.env["ASCEND_RT_VISIBLE_DEVICES"] == "0,1"
        assert "run-1" in str(server.argv), "both nodes are one engine to its peers"
        assert not [warning for warning in plan.warnings if "nnodes" in warning or "master_port" in warning]
    assert (head.servers[0].name, other.servers[0].name) == ("prefill-0", "prefill-0-node-1")
    assert [one.id for one in head.instance.endpoints] == ["prefill-0/0"]
    assert other.instance.endpoints == ()


def test_two_ranks_on_two_nodes_each() -> None:
    planned = parts(prefill(data_parallel_size=2, tensor_parallel_size=4), 4)
    servers = [plan.servers[0] for plan in planned]
    assert [server.headless for server in servers] == [False, True, False, True]
    assert [option(server.argv, "--data-parallel-rank") for server in servers] == ["0", "0", "1", "1"]
    assert [option(server.argv, "--node-rank") for server in servers] == ["0", "1", "2", "3"]
    assert {option(server.argv, "--nnodes") for server in servers} == {"4"}, "vLLM counts the nodes of all ranks"
    assert {option(server.argv, "--master-addr") for server in servers} == {MASTER}
    assert [one.id for plan in planned for one in plan.instance.endpoints] == ["prefill-0/0", "prefill-0/1"]


def test_one_server_before_the_ranks_of_all_nodes() -> None:
    head, other = (plan.servers[0] for plan in parts(prefill(data_parallel_size=4, enable_multi_endpoints=False), 2))
    for server in (head, other):
        assert option(server.argv, "--data-parallel-address") == MASTER
        assert option(server.argv, "--data-parallel-size-local") == "2"
        assert option(server.argv, "--data-parallel-rank") is None
        assert server.env["ASCEND_RT_VISIBLE_DEVICES"] == "0,1,2,3"
    assert (option(head.argv, "--data-parallel-start-rank"), head.headless) == (None, False)
    assert (option(other.argv, "--data-parallel-start-rank"), other.headless) == ("2", True)


def test_sglang_on_two_nodes() -> None:
    config = {
        "motor_deploy_config": {"hybrid_instances_num": 1, "hardware_type": "gpu"},
        "motor_engine_prefill_config": {
            "engine_type": "sglang",
            "engine_config": {"model-path": "/m", "tp-size": 4, "nnodes": 2, "dist-init-addr": "ignored:5001"},
        },
    }
    head, other = parts(config, 2)
    for node_rank, plan in enumerate((head, other)):
        (server,) = plan.servers
        assert option(server.argv, "--nnodes") == "2"
        assert option(server.argv, "--node-rank") == str(node_rank)
        assert option(server.argv, "--dist-init-addr") == f"{MASTER}:5001"
        assert option(server.argv, "--disaggregation-bootstrap-port") == "8998"
        assert server.headless is (node_rank > 0)
        assert server.env == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert other.instance.endpoints == ()


def test_what_cannot_be_spread_is_said() -> None:
    with pytest.raises(PlanError, match="3 data parallel ranks cannot be spread evenly over 2 nodes"):
        parts(prefill(data_parallel_size=3), 2)
    with pytest.raises(PlanError, match="need 2 devices, which 4 nodes cannot share"):
        parts(prefill(tensor_parallel_size=2), 4)
    with pytest.raises(PlanError, match="says nnodes 3"):
        parts(prefill(tensor_parallel_size=2, nnodes=3), 2)
    with pytest.raises(PlanError, match="dense model"):
        parts(prefill(data_parallel_size=2, tensor_parallel_size=4), 4, experts=False)
    with pytest.raises(PlanError, match="no node 2 of 2"):
        InstancePart(node_rank=2, nodes=2, master_address=MASTER, identity="i")
    with pytest.raises(PlanError, match="address of its first one"):
        InstancePart(nodes=2)


def test_one_node_plans_as_ever() -> None:
    config = prefill(data_parallel_size=2, nnodes=2)
    made = plan_instance(user_config(config), env_config(), Role.PREFILL, 0, FixedHost(), WHOLE)
    assert made == plan_instance(user_config(config), env_config(), Role.PREFILL, 0, FixedHost())
    assert "nnodes was not passed on: PyMotor sets it" in made.warnings
    assert engine_options()["data_parallel_rpc_port"] == 9000


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 8), st.booleans())
def test_the_nodes_together_have_each_rank_once(nodes: int, data: int, each: int, server_per_rank: bool) -> None:
    def spread(node_rank: int) -> Any:
        part = InstancePart(node_rank=node_rank, nodes=nodes, master_address=MASTER, identity="i")
        return spread_of(part, data, data * each, None, server_per_rank=server_per_rank)

    try:
        found = [spread(node_rank) for node_rank in range(nodes)]
    except PlanError:
        assert (data % nodes and nodes % data) or (data * each) % nodes
        return
    answering = [rank for one in found if not one.headless for rank in one.ranks]
    assert answering == list(range(data if server_per_rank else 1))
    assert not found[0].headless
    assert {len(one.ranks) for one in found} == {max(1, data // nodes) if server_per_rank else 1}
