"""Orders become servers with ports of their own, on several nodes with one identity."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from pymotor.config import EnvConfig, UserConfig
from pymotor.engines.port_claims import PortClaims
from pymotor.fleet import NodeOrder, Role
from pymotor.node_manager.planning import OrderError, OrderPlanner

CONFIG: dict[str, Any] = {
    "motor_deploy_config": {"p_instances_num": 1, "d_instances_num": 1, "hardware_type": "cpu"},
    "motor_engine_decode_config": {
        "engine_type": "sim",
        "engine_config": {
            "model": "tiny",
            "data_parallel_size": 2,
            "tensor_parallel_size": 1,
            "kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": "kv_both"},
        },
    },
}


def planner(tmp_path: Path, ranktable: Path | None = None, **engine: object) -> OrderPlanner:
    config = json.loads(json.dumps(CONFIG))
    config["motor_engine_decode_config"]["engine_config"].update(engine)
    return OrderPlanner(
        UserConfig.model_validate(config),
        EnvConfig(),
        "job",
        "127.0.0.1",
        None,
        None,
        ranktable,
        lambda: PortClaims(tmp_path / "claims"),
    )


def order(**fields: object) -> NodeOrder:
    known: dict[str, object] = {
        "epoch": 1,
        "revision": 1,
        "instance": "decode-0",
        "role": Role.DECODE,
        "generation": 1,
        **fields,
    }
    return NodeOrder(**known)  # type: ignore[arg-type]


def claimed(tmp_path: Path) -> list[str]:
    """Ports that still belong to somebody."""
    found = []
    for file in (tmp_path / "claims").iterdir():
        with file.open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(file.name)
    return found


def engine_id(words: tuple[str, ...]) -> str:
    found: str = json.loads(words[words.index("--kv-transfer-config") + 1])["engine_id"]
    return found


def test_two_managers_of_one_machine_share_no_port(tmp_path: Path) -> None:
    planned = [planner(tmp_path).plan(order(number=number, instance=f"decode-{number}")) for number in range(2)]
    urls = [server.endpoint.url for one in planned for server in one.plan.servers]
    assert len(set(urls)) == 4
    assert len(claimed(tmp_path)) >= 4
    for one in planned:
        one.claims.close()
    assert claimed(tmp_path) == []


def test_each_generation_is_another_engine_and_the_same_on_all_its_nodes(tmp_path: Path) -> None:
    def identities(**fields: object) -> list[str]:
        planned = planner(tmp_path).plan(order(**fields))
        planned.claims.close()
        return [engine_id(server.argv) for server in planned.plan.servers]

    two = {"nodes": 2, "master_address": "10.0.0.1"}
    first, second = identities(**two), identities(**two, node_rank=1)
    assert first[0].rpartition("-")[0] == second[0].rpartition("-")[0]
    assert first != second
    assert identities(**two) == first, "a node that is late comes to the same"
    assert identities(**two, generation=2) != first
    assert identities(nodes=2, master_address="10.0.0.2") != first
    assert identities() != identities(), "alone each run is another"


def test_the_merged_ranktable_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tables" / "ranktable.json"
    made = planner(tmp_path, path)
    made.plan(order()).claims.close()
    assert not path.exists()
    made.plan(order(ranktable='{"server_count": "2"}')).claims.close()
    assert path.read_text() == '{"server_count": "2"}'
    assert [one.name for one in path.parent.iterdir()] == ["ranktable.json"]


def test_what_cannot_be_followed_is_said_and_gives_its_ports_back(tmp_path: Path) -> None:
    made = planner(tmp_path, tmp_path)
    with pytest.raises(OrderError, match="no motor_engine_encode_config"):
        made.plan(order(instance="encode-0", role=Role.ENCODE))
    with pytest.raises(OrderError, match="not <role>-<number>"):
        made.plan(order(instance="decode-3"))
    with pytest.raises(OrderError, match="spread evenly"):
        made.plan(order(nodes=3, master_address="10.0.0.1"))
    with pytest.raises(OrderError, match="cannot follow the order"):
        made.plan(order(ranktable="{}"))  # its path is a directory
    assert claimed(tmp_path) == []
