"""A ranktable as it is built is good; whatever is changed in it is found and named."""

from __future__ import annotations

import copy
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.ascend.ranktable import (
    NodeDevice,
    NodeRecord,
    RanktableError,
    build_ranktable,
    left_out,
    ranktable_text,
    write_whole,
)
from pymotor.ascend.ranktable_check import check_ranktable


def node(number: int, generation: str = "A2", devices: int = 2) -> NodeRecord:
    of_a3 = generation == "A3"
    return NodeRecord(
        f"10.0.0.{number}",
        "A3" if of_a3 else "A2",
        tuple(
            NodeDevice(
                device,
                f"29.1.{number}.{10 + device}",
                "0" if of_a3 else "",
                str(number << 22 | device) if of_a3 else "",
            )
            for device in range(devices)
        ),
    )


def errors(content: object) -> list[str]:
    return [str(problem) for problem in check_ranktable(content) if problem.severity == "error"]


EXPECTED_A3 = """{
    "version": "1.2",
    "server_count": "2",
    "prefill_device_list": [
        {
            "server_id": "10.0.0.1",
            "device_id": "0",
            "device_ip": "29.1.1.10",
            "super_pod_id": "0",
            "super_device_id": "4194304",
            "cluster_id": "1"
        }
    ],
    "decode_device_list": [
        {
            "server_id": "10.0.0.2",
            "device_id": "0",
            "device_ip": "29.1.2.10",
            "super_pod_id": "0",
            "super_device_id": "8388608",
            "cluster_id": "2"
        }
    ],
    "status": "completed"
}"""


def test_the_text_is_that_of_the_original() -> None:
    nodes = [node(1, "A3", 1), node(2, "A3", 1)]
    assert ranktable_text(build_ranktable(nodes, 1, 1)) == EXPECTED_A3
    without = [line for line in EXPECTED_A3.splitlines() if "super_" not in line]
    nodes = [node(1, "A2", 1), node(2, "A2", 1)]
    assert ranktable_text(build_ranktable(nodes, 1, 1)).splitlines() == without


@given(st.lists(st.integers(1, 16), min_size=1, max_size=5), st.sampled_from(["A2", "A3"]), st.data())
def test_every_ranktable_that_is_built_is_good(sizes: list[int], generation: str, data: st.DataObject) -> None:
    nodes = [node(number, generation, size) for number, size in enumerate(sizes, start=1)]
    total = sum(sizes)
    prefill = data.draw(st.integers(1, total))
    decode = data.draw(st.integers(1, total))
    if prefill + decode > total:
        with pytest.raises(RanktableError, match=f"nodes lend {total}: node 10.0.0.1 has {sizes[0]}"):
            build_ranktable(nodes, prefill, decode)
        return
    ranktable = build_ranktable(nodes, prefill, decode)
    assert errors(ranktable) == []
    listed = ranktable["prefill_device_list"] + ranktable["decode_device_list"]
    flat = [(one.server_id, str(device.device_id)) for one in nodes for device in one.devices]
    assert [(entry["server_id"], entry["device_id"]) for entry in listed] == flat[: prefill + decode]
    assert bool(left_out(nodes, ranktable)) == (prefill + decode < total)
    assert [NodeRecord.from_json(json.loads(json.dumps(one.as_json()))) for one in nodes] == nodes


def changed(path: list[Any], value: object) -> dict[str, Any]:
    """A good table of two A3 nodes with one place changed; the value `...` removes it."""
    content = copy.deepcopy(build_ranktable([node(1, "A3"), node(2, "A3")], 2, 2))
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


D = "decode_device_list"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["version"], "1.0", "$.version: must be '1.2'"),
        (["version"], ..., "$.version: missing"),
        (["status"], "initializing", "$.status: must be 'completed'"),
        (["server_count"], 2, "$.server_count: must be a number as a string"),
        (["server_count"], "1", "is 1 but devices of 2 nodes are listed: 10.0.0.1, 10.0.0.2"),
        ([D], [], f"$.{D}: must be a list of at least one device"),
        ([D], {}, f"$.{D}: must be a list"),
        ([D, 1], "x", f"$.{D}[1]: a device is an object"),
        ([D, 1, "device_id"], 1, f"$.{D}[1]: node 10.0.0.2, device 1: device_id must be a string"),
        ([D, 1, "device_id"], "0", f"device 0: the device is there already: $.{D}[0] (node 10.0.0.2, device 0)"),
        ([D, 1, "device_id"], "-1", "device_id is no number"),
        ([D, 1, "device_ip"], "29.1.1.10", "already: $.prefill_device_list[0] (node 10.0.0.1, device 0)"),
        ([D, 1, "device_ip"], "29.1.1", "node 10.0.0.2, device 1: device_ip is no IP address"),
        ([D, 1, "device_ip"], ..., "node 10.0.0.2, device 1: device_ip is missing"),
        ([D, 1, "server_id"], "node-2", "server_id is no IP address"),
        ([D, 1, "super_device_id"], "4194304", "super_device_id 4194304 is there already"),
        ([D, 1, "super_device_id"], ..., "node 10.0.0.2, device 1: super_device_id missing"),
        ([D, 1, "super_pod_id"], [], "super_pod_id must be a string"),
        ([D, 1, "cluster_id"], "3", "node 10.0.0.2, device 1: cluster_id must be '4' here, is '3'"),
    ],
)
def test_what_is_changed_is_named(path: list[Any], value: object, said: str) -> None:
    found = errors(changed(path, value))
    assert any(said in error for error in found), found


def test_keys_that_nobody_reads_and_nodes_without_devices_are_warnings() -> None:
    for content in (changed(["server_list"], []), changed([D, 0, "rank_id"], "0"), changed(["server_count"], "3")):
        (problem,) = check_ranktable(content)
        assert problem.severity == "warning"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["server_id", "device_id", "device_ip", "super_pod_id", "cluster_id", "server_count", D]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(ANY_JSON)
def test_any_content_is_answered_with_problems(content: object) -> None:
    assert check_ranktable(content)
    with pytest.raises(RanktableError):
        NodeRecord.from_json({"format": "pymotor-ranktable-node-1", "server_id": content, "devices": content})


@given(st.sampled_from(["server_id", "generation", "devices"]), ANY_JSON)
def test_any_record_is_read_or_refused(key: str, value: object) -> None:
    try:
        read = NodeRecord.from_json({**node(1, "A3").as_json(), key: value})
    except RanktableError:
        return
    assert NodeRecord.from_json(read.as_json()) == read


def test_a2_and_a3_do_not_mix() -> None:
    with pytest.raises(RanktableError, match=r"node 10\.0\.0\.1 is A2, node 10\.0\.0\.2 is A3"):
        build_ranktable([node(1), node(2, "A3")], 2, 2)


def test_a_table_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    """Through a link into its target, and to what is no file without replacing it."""
    target, link, pipe = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, "told")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(reader, 100) == b"told"
    finally:
        os.close(reader)
