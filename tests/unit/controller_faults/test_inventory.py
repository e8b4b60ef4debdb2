"""The inventory in the format that management platforms read."""

from __future__ import annotations

import json

import pytest
from faulty_fleets import a_fleet, an_endpoint, an_instance

from pymotor.controller.inventory import DEGRADED, HEALTHY, UNHEALTHY, device_addresses, inventory, model_state
from pymotor.fleet import InstanceState, Role

TABLE = json.dumps({"server_list": [{"device": [{"device_id": "0", "device_ip": "1.1.1.1"}, {"device_id": "1"}]}]})
NODE = {
    "machine": "192.168.0.7",
    "address": "10.0.0.7",
    "device_ids": ("0", "1"),
    "ranktable": TABLE,
    "endpoints": (an_endpoint("decode-0/0"), an_endpoint("decode-0/1")),
}


def test_the_whole():
    view = a_fleet(
        an_instance("prefill-0", InstanceState.INITIAL),
        an_instance("decode-0", node=NODE),
        an_instance("union-0", InstanceState.INACTIVE, nodes=2),
        an_instance("encode-0"),
    )
    answer = inventory(view, {"sys_id": "7", "ENGINE_TYPE": "vLLM"}, 99)
    assert {key: answer[key] for key in answer if key != "inventories"} == {
        "modelID": "7",
        "modelName": "m",
        "modelType": "m",
        "modelState": UNHEALTHY,
        "inferenceFrameworkType": "motor-vllm",
        "timestamp": 99,
    }
    lists = answer["inventories"]
    assert {name: [one["InstanceStatus"] for one in lists[name]] for name in lists if "Instance" in name} == {
        "EInstanceList": ["running"],
        "PInstanceList": ["init"],
        "DInstanceList": ["running"],
    }
    (hybrid,) = lists["PDHybridList"]
    assert (hybrid["ID"], hybrid["InstanceStatus"], len(hybrid["podInfoList"])) == ("union-0", "error", 2)
    assert lists["DInstanceList"] == [
        {
            "ID": "decode-0",
            "Name": "decode-0",
            "InstanceStatus": "running",
            "podInfoList": [
                {
                    "podAssociatedInfoList": [{"NPUID": "0", "NPUIP": "1.1.1.1"}, {"NPUID": "1", "NPUIP": ""}],
                    "podID": "10.0.0.7",
                    "podName": "decode-0.0",
                }
            ],
            "serverIPList": ["192.168.0.7"],
            "serverList": [],
        }
    ]
    first, second = lists["DPGroupList"]
    assert first["DPList"][0]["serverList"][0]["NPUInfoList"] == [{"NPUID": "0", "NPUIP": "1.1.1.1"}]
    assert second["DPList"][0]["PDInstID"] == "decode-0"
    assert lists["serverIPList"] == ["192.168.0.7"]
    json.dumps(answer)


PAIR = (an_instance("prefill-0"), an_instance("decode-0"))


@pytest.mark.parametrize(
    ("state", "view"),
    [
        (HEALTHY, a_fleet(*PAIR)),
        (HEALTHY, a_fleet(an_instance("union-0"))),
        (HEALTHY, a_fleet(*PAIR, an_instance("encode-0"))),
        (DEGRADED, a_fleet(*PAIR, an_instance("encode-0", InstanceState.INACTIVE))),
        (DEGRADED, a_fleet(*PAIR, targets={Role.DECODE: 2})),
        (DEGRADED, a_fleet(an_instance("union-0"), an_instance("prefill-0", InstanceState.INITIAL))),
        (UNHEALTHY, a_fleet(an_instance("prefill-0"))),
        (UNHEALTHY, a_fleet()),
    ],
)
def test_the_state_of_the_model(state, view):
    assert model_state(view) == state


@pytest.mark.parametrize(
    "table", ["", "{", "7", "[]", '{"server_list": 7}', '{"server_list": [7, {"device": [7, {}]}]}']
)
def test_odd_device_tables(table):
    assert device_addresses(table) == {}


def test_an_empty_fleet_has_an_inventory():
    answer = inventory(a_fleet(), {"MODEL_NAME": "qwen"}, 0)
    assert answer["modelName"] == "qwen"
    assert answer["inferenceFrameworkType"] == "motor-"
