"""What hccn_tool prints, read; and that no text whatever, and no file, makes reading or judging raise."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymotor.ascend.netcheck import outputs
from pymotor.ascend.netcheck.findings import Verdict
from pymotor.ascend.netcheck.judge import judge
from pymotor.ascend.netcheck.judge_device import judge_device_steps
from pymotor.ascend.netcheck.peers import peers_of_ranktable
from pymotor.ascend.netcheck.readings import (
    ConnectReading,
    DeviceReadings,
    NodeReadings,
    Outcome,
    PingReading,
    ReadingsError,
    read_readings,
    to_json,
)
from pymotor.ascend.netcheck.report import as_json, as_text, exit_status
from pymotor.ascend.netcheck.steps import STEPS, device_steps

GOOD = {
    "lldp": "Chassis ID TLV\n\tMAC: 48:57:02:aa:bb:cc\nPort ID TLV\n\tIfname: 400GE1/1/5:1\nEnd of LLDPDU TLV\n",
    "link": "link status: UP\n",
    "health": "net health status: Success\n",
    "netdetect": "netdetect address: 11.12.165.1\n",
    "gateway": "default gateway:11.12.165.1, Iface:eth0\n",
    "ip": "ipaddr:11.12.165.80\nnetmask:255.255.255.0\n",
    "vnic": "vnic link status: UP\nvnic ipaddr: 192.168.2.199\nvnic netmask: 255.255.255.0\n",
    "tls": "dev_id:0, tls switch[0](0:disable, 1:enable), tls preconfigured[1](0:non-preset, 1:preset), "
    "tls alarm time threshold[60]days\n",
}
PING = (
    "device 0 PING 11.12.165.81\nrecv seq=0,time=0.114000ms\nrecv seq=1,time=0.052000ms\nrecv seq=2,time=0.050000ms\n"
    "3 packets transmitted, 3 received, 0.00% packet loss\n"
)
HCCS_PING = (
    "device 1 PING 192.168.2.199\nrecv seq 0, time = 12.345us, L1 plane check result = 0x0\nThis pkt ping success!\n"
    "3 packets transmitted, 3 received, 0.00% packets loss\n"
)


def test_values_of_good_outputs() -> None:
    assert outputs.switch_port(GOOD["lldp"]) == "400GE1/1/5:1"
    assert outputs.link_status(GOOD["link"]) == outputs.link_status(GOOD["vnic"]) == "UP"
    assert outputs.health_status(GOOD["health"]) == "Success"
    assert outputs.detect_address(GOOD["netdetect"]) == "11.12.165.1"
    assert outputs.gateway(GOOD["gateway"]) == ("11.12.165.1", "eth0")
    assert outputs.gateway("default gateway:11.12.165.1\n") == ("11.12.165.1", "")
    assert (outputs.device_address(GOOD["ip"]), outputs.netmask(GOOD["ip"])) == ("11.12.165.80", "255.255.255.0")
    assert (outputs.device_address(GOOD["vnic"]), outputs.netmask(GOOD["vnic"])) == ("192.168.2.199", "255.255.255.0")
    assert outputs.tls_switch(GOOD["tls"]) == (0, False)
    assert outputs.ping(PING) == (3, 3, 0.114)
    assert outputs.ping(HCCS_PING) == (3, 3, 0.012345)
    assert outputs.hccn_config("address_3=10.0.0.1\nsend_arp_status_3=1\n# x\n") == {
        3: {"address": "10.0.0.1", "send_arp_status": "1"}
    }


@pytest.mark.parametrize(
    ("step", "text", "verdict", "seen"),
    [
        ("link", "link status: DOWN\n", Verdict.FAILED, "DOWN"),
        ("link", "lnk sts UP\n", Verdict.FAILED, "lnk sts UP"),
        ("link", "", Verdict.FAILED, "printed nothing"),
        ("link", "This device does not support this function\n", Verdict.NOT_CHECKED, "does not support"),
        ("link", "hccn_tool is busy, please try again\n", Verdict.FAILED, "busy"),
        ("health", "net health status: Receive timeout\n", Verdict.FAILED, "Receive timeout"),
        ("health", "net health status: Detect ip set\n", Verdict.FAILED, "Detect ip set"),
        ("lldp", "", Verdict.FAILED, "no neighbour"),
        ("lldp", "Chassis ID TLV\nEnd of LLDPDU TLV\n", Verdict.FAILED, "no neighbour"),
        ("lldp", "what?\n", Verdict.FAILED, "what?"),
        ("netdetect", "netdetect address: 0.0.0.0\n", Verdict.FAILED, "0.0.0.0"),
        ("gateway", "", Verdict.FAILED, "no gateway"),
        ("ip", "ipaddr:11.12.165.80\n", Verdict.FAILED, "netmask missing"),
        ("ip", "ipaddr:11.12.165.801\nnetmask:255.255.255.0\n", Verdict.FAILED, "11.12.165.801"),
        ("vnic", "vnic link status: DOWN\n", Verdict.FAILED, "DOWN"),
        ("vnic", "vnic ipaddr: 192.168.2.199\nvnic netmask: 255.255.255.0\n", Verdict.FAILED, "cannot be read"),
        ("tls", "dev_id:4, tls switch[1](0:disable, 1:enable)\n", Verdict.FAILED, "device 4"),
    ],
)
def test_bad_outputs_are_failures_that_show_the_line(step: str, text: str, verdict: Verdict, seen: str) -> None:
    generation = "A3" if step == "vnic" else "A2"
    steps = {name: Outcome(GOOD[name], 0) for name in device_steps(generation)}
    steps[step] = Outcome(text, 0, command=("hccn_tool", "-i", "0", f"-{step}", "-g"))
    findings = judge_device_steps(NodeReadings("a", generation), DeviceReadings(0, steps))
    found = {finding.step: finding for finding in findings}
    assert (found[step].verdict, seen in found[step].seen) == (verdict, True), found[step]
    assert all(finding.verdict is Verdict.GOOD for name, finding in found.items() if name != step)


@pytest.mark.parametrize("problem", ["timed out", "printed too much", "not started"])
def test_a_command_without_an_end_is_a_failure(problem: str) -> None:
    steps = {"link": Outcome("link status: UP", None, problem, ("hccn_tool", "-i", "0", "-link", "-g"))}
    link = next(it for it in judge_device_steps(NodeReadings("a"), DeviceReadings(0, steps)) if it.step == "link")
    assert link.verdict is Verdict.FAILED
    assert "hccn_tool -i 0 -link -g" in link.advice


def test_steps_left_out_and_nothing_at_all_are_not_good() -> None:
    findings = judge([NodeReadings("a", devices=(DeviceReadings(0, {}),), without_pings=True)])
    assert {finding.verdict for finding in findings} == {Verdict.NOT_CHECKED}
    assert exit_status(findings) == 1
    assert exit_status([]) == 1


PIECES = [*GOOD.values(), PING, HCCS_PING, "address_0=", "\x00", "\n", "Ifname:", "9" * 30, " packets transmitted, "]
TEXTS = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5))).map("".join))
OUTCOMES = st.builds(
    Outcome,
    output=TEXTS,
    status=st.sampled_from([None, 0, 1, 255]),
    problem=st.sampled_from(["", "", "timed out", "refused", "no route", "x"]),
    command=st.just(("hccn_tool", "-g")),
)
DEVICES = st.builds(
    DeviceReadings, device=st.integers(0, 2), steps=st.dictionaries(st.sampled_from(STEPS[:9]), OUTCOMES)
)
PINGS = st.builds(
    PingReading,
    device=st.integers(0, 2),
    to_node=st.sampled_from("abc"),
    to_device=st.one_of(st.none(), st.integers(0, 2)),
    address=st.sampled_from(["10.0.0.1", "10.0.0.2", ""]),
    outcome=OUTCOMES,
)
NODES = st.builds(
    NodeReadings,
    node=st.sampled_from("abc"),
    generation=st.sampled_from(["A2", "A3"]),
    config=st.one_of(st.none(), OUTCOMES),
    devices=st.lists(DEVICES, max_size=3).map(tuple),
    pings=st.lists(PINGS, max_size=6).map(tuple),
    connects=st.lists(st.builds(ConnectReading, host=st.text(), port=st.integers(1, 65535), outcome=OUTCOMES)).map(
        tuple
    ),
    trouble=st.sampled_from(["", "", "", "gone"]),
)


@given(TEXTS)
def test_no_text_makes_reading_raise(text: str) -> None:
    for read in (
        outputs.link_status,
        outputs.health_status,
        outputs.detect_address,
        outputs.gateway,
        outputs.device_address,
        outputs.netmask,
        outputs.switch_port,
        outputs.tls_switch,
        outputs.ping,
        outputs.hccn_config,
        outputs.is_usable_address,
        outputs.says_unsupported,
        outputs.says_busy,
    ):
        read(text)
    line = outputs.first_line(text)
    assert len(line) <= 120
    assert line.isprintable()


@settings(max_examples=40)
@given(st.lists(NODES, max_size=3, unique_by=lambda node: node.node))
def test_whatever_was_read_gets_a_verdict(nodes: list[NodeReadings]) -> None:
    findings = judge(nodes)
    assert exit_status(findings) in (0, 1)
    assert json.loads(as_json(findings))["ok"] == (exit_status(findings) == 0)
    assert as_text(findings)
    for finding in findings:
        assert finding.verdict is not Verdict.FAILED or finding.advice
    for node in nodes:
        assert msgspec.json.decode(to_json(node), type=NodeReadings) == node
        # Nothing that was asked for goes without a line.
        steps = {(it.device, it.step) for it in findings if it.node == node.node}
        for device in node.devices if not node.trouble else ():
            assert {(device.device, step) for step in device_steps(node.generation)} <= steps


@given(st.one_of(st.binary(), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps)))
def test_no_file_makes_reading_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (read_readings, peers_of_ranktable):
        with pytest.raises(ReadingsError, match=r"any\.json"):
            read(path)


def test_a_ranktable_names_devices_by_server(tmp_path: Path) -> None:
    path = tmp_path / "ranktable.json"
    entry = {"server_id": "192.0.0.1", "device_id": "6", "device_ip": "29.1.1.16", "cluster_id": "1"}
    path.write_text(json.dumps({"prefill_device_list": [entry], "decode_device_list": [{**entry, "device_id": "7"}]}))
    assert [peer.device for peer in peers_of_ranktable(path)["192.0.0.1"]] == [6, 7]
    server = {"server_id": "s", "device": [{"device_id": "0", "device_ip": "29.1.1.10", "rank_id": "0"}]}
    path.write_text(json.dumps({"server_list": [server]}))
    assert peers_of_ranktable(path)["s"][0].address == "29.1.1.10"
