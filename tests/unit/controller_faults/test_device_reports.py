"""What the device plugin's ConfigMap and a Node's condition say, well-formed and odd."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.controller.faults.device_reports import DeviceReport, read_device_report, read_node_condition
from pymotor.controller.faults.levels import FaultLevel, level_of, same_device

# As the device plugin of an Atlas A3 writes it.
ENTRIES = [
    {
        "fault_type": "CardNetworkUnhealthy",
        "npu_name": "Ascend910-0",
        "large_model_fault_level": "PreSeparateNPU",
        "fault_level": "PreSeparateNPU",
        "fault_handling": "PreSeparateNPU",
        "fault_code": "81078603",
        "fault_time_and_level_map": {"81078603": {"fault_time": 1744168468259, "fault_level": "PreSeparateNPU"}},
    },
    {
        "fault_type": "CardUnhealthy",
        "npu_name": "Ascend910-4",
        "fault_level": "SeparateNPU",
        "fault_handling": "SeparateNPU",
        "fault_code": "A8028801,80E18402",
        "fault_time_and_level_map": {
            "A8028801": {"fault_time": 1744167455784, "fault_level": "NotHandleFault"},
            "80E18402": {"fault_time": 1744167455784, "fault_level": "SeparateNPU"},
        },
    },
]


def configmap(entries: object, key: str = "huawei.com/Ascend910-Fault") -> dict[str, str]:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    return {"DeviceInfoCfg": json.dumps({"DeviceInfo": {"DeviceList": {key: text}, "UpdateTime": 1}})}


def found(report: DeviceReport) -> list[tuple[str, int, FaultLevel]]:
    return [(fault.device, fault.code, fault.level) for fault in report.faults]


def test_each_code_of_each_device_has_its_level():
    report = read_device_report("worker-1", configmap(ENTRIES))
    assert found(report) == [
        ("Ascend910-0", 0x81078603, FaultLevel.L6),
        ("Ascend910-4", 0xA8028801, FaultLevel.L1),
        ("Ascend910-4", 0x80E18402, FaultLevel.L6),
    ]
    assert report.problems == ()
    assert {fault.machine for fault in report.faults} == {"worker-1"}


def test_the_list_may_be_a_list_and_the_product_another():
    report = read_device_report(
        "w", {"DeviceInfoCfg": {"DeviceInfo": {"DeviceList": {"huawei.com/npu-Fault": ENTRIES}}}}
    )
    assert len(report.faults) == 3
    assert report.problems == ()


def test_a_device_worse_than_each_of_its_codes():
    entry = {
        **ENTRIES[1],
        "fault_handling": "ManuallySeparateNPU",
        "fault_time_and_level_map": {
            "A8028801": {"fault_level": "NotHandleFault"},
            "80E18402": {"fault_level": "RestartRequest"},
        },
    }
    levels = [level for _, _, level in found(read_device_report("w", configmap([entry])))]
    assert levels == [FaultLevel.L1, FaultLevel.L2, FaultLevel.L6]


def test_a_fault_of_the_machine_names_no_device():
    entry = {"fault_type": "NodeUnhealthy", "npu_name": "", "fault_level": "RestartBusiness", "fault_code": "1"}
    assert found(read_device_report("w", configmap([entry]))) == [("", 1, FaultLevel.L3)]


def test_devices_taken_out_by_hand_are_out():
    report = read_device_report("w", {**configmap([]), "ManuallySeparateNPU": "Ascend910-3, Ascend910-5,"})
    assert found(report) == [("Ascend910-3", 0, FaultLevel.L6), ("Ascend910-5", 0, FaultLevel.L6)]


def test_switches():
    switches = {
        "FaultCode": [],
        "FaultLevel": "Separate",
        "FaultTimeAndLevelMap": {
            "[0x00f1fef5,155914,cpu,na]_0_1": {"fault_time": 1, "fault_level": "RestartRequest"},
            "[0x08520003,,na,na]_1_2": {"fault_time": 1, "fault_level": "NotHandle"},
        },
    }
    report = read_device_report("w", {**configmap([]), "SwitchInfoCfg": json.dumps(switches)})
    assert found(report) == [
        ("", 0x00F1FEF5, FaultLevel.L2),
        ("", 0x08520003, FaultLevel.L1),
        ("", 0, FaultLevel.L6),
    ]
    assert report.problems == ()


def test_a_healthy_report_clears_what_was_known():
    known = read_device_report("w", {**configmap(ENTRIES), "ManuallySeparateNPU": "Ascend910-3"})
    assert read_device_report("w", {**configmap([]), "ManuallySeparateNPU": ""}, known).faults == ()


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"other": "x"},
        [],
        {"SwitchInfoCfg": "", "ManuallySeparateNPU": ""},
        {"DeviceInfoCfg": ""},
        {"DeviceInfoCfg": "{"},
        {"DeviceInfoCfg": "[]"},
        {"DeviceInfoCfg": "[" * 100_000},
        {"DeviceInfoCfg": '{"DeviceInfo": {"DeviceList": 7}}'},
        configmap("[{]"),
        configmap("7"),
        configmap([7]),
        configmap([{"fault_level": "SeparateNPU"}]),
    ],
)
def test_a_broken_report_clears_nothing(broken):
    known = read_device_report("w", configmap(ENTRIES))
    report = read_device_report("w", broken, known)
    assert set(known.faults) <= set(report.faults)
    assert report.problems


def test_the_parts_are_read_each_for_itself():
    known = read_device_report("w", {**configmap(ENTRIES), "ManuallySeparateNPU": "Ascend910-3"})
    report = read_device_report("w", {"DeviceInfoCfg": "{", "ManuallySeparateNPU": "Ascend910-7"}, known)
    assert report.devices == known.devices
    assert [fault.device for fault in report.taken_out] == ["Ascend910-7"]


def test_of_a_partly_broken_list_the_rest_counts():
    known = read_device_report("w", configmap(ENTRIES))
    better = {**ENTRIES[0], "fault_handling": "NotHandleFault", "fault_time_and_level_map": {}}
    report = read_device_report("w", configmap([better, "nonsense"]), known)
    assert ("Ascend910-0", 0x81078603, FaultLevel.L1) in found(report)
    assert ("Ascend910-4", 0x80E18402, FaultLevel.L6) in found(report), "nobody knows of which device it spoke"


def test_an_unknown_level_keeps_that_device_and_no_other():
    known = read_device_report("w", configmap(ENTRIES))
    odd = {"npu_name": "Ascend910-0", "fault_type": "CardUnhealthy", "fault_level": "Shrug", "fault_code": "81078603"}
    report = read_device_report("w", configmap([odd]), known)
    assert max(fault.level for fault in report.faults if fault.device == "Ascend910-0") is FaultLevel.L6
    assert {fault.device for fault in report.faults} == {"Ascend910-0"}
    assert "Shrug" in report.problems[0]


KEYS = [
    "DeviceInfo",
    "DeviceList",
    "huawei.com/Ascend910-Fault",
    "npu_name",
    "fault_level",
    "fault_code",
    "fault_handling",
    "fault_time_and_level_map",
    "FaultTimeAndLevelMap",
    "FaultLevel",
    "fault_type",
    "status",
    "conditions",
    "type",
]
texts = st.text() | st.sampled_from(KEYS)
plain = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["SeparateNPU", "Ascend910-1", "0x1"])
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=5), max_leaves=20
)
documents = values | values.map(json.dumps)


@given(
    st.dictionaries(st.sampled_from(["DeviceInfoCfg", "SwitchInfoCfg", "ManuallySeparateNPU", "x"]), documents)
    | values,
    values,
)
def test_nothing_that_stands_in_a_configmap_or_a_node_raises(data, node):
    known = read_device_report("w", configmap(ENTRIES))
    report = read_device_report("w", data, known)
    assert isinstance(data, dict) or report.faults == known.faults
    assert all(isinstance(fault.level, FaultLevel) and fault.machine == "w" for fault in report.faults)
    faults, problem = read_node_condition("w", node, known.faults)
    assert not problem or faults == known.faults


def a_machine(status: object, **more: object) -> dict[str, object]:
    return {
        "status": {
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": status, **more}]
        }
    }


def test_nodes():
    assert read_node_condition("w", a_machine("True")) == ((), "")
    for status in ("False", "Unknown"):
        (fault,), problem = read_node_condition("w", a_machine(status, reason="NodeStatusUnknown"))
        assert (fault.machine, fault.device, fault.code, fault.level) == ("w", "", 1, FaultLevel.L6)
        assert "NodeStatusUnknown" in fault.words
        assert problem == ""
    known = (fault,)
    for odd in ({}, {"status": {"conditions": []}}, a_machine(None), a_machine("Perhaps")):
        faults, problem = read_node_condition("w", odd, known)
        assert faults == known
        assert problem


def test_words_of_levels():
    words = ["NotHandleFault", "RestartRequest", "RestartBusiness", "FreeRestartNPU", "RestartNPU", "SeparateNPU"]
    assert [level_of(word) for word in words] == list(FaultLevel)[1:]
    assert level_of("PreSeparateNPU") is FaultLevel.L6
    assert level_of("unheard of") is level_of(7) is None


def test_names_of_devices():
    assert same_device("Ascend910-4", "4")
    assert same_device("Ascend910-4", "npu-4")
    assert not same_device("Ascend910-4", "Ascend910-14")
    assert same_device("a", "a")
    assert not same_device("a", "a-1")
