"""`pymotor ranktable` and gen_ranktable.sh as processes, on nodes whose npu-smi and hccn_tool are stand-ins."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil
import pytest

from ascend_tools.nodes import tool_environment
from free_ports import free_port
from pymotor.cli import main
from pymotor.controller.inventory import device_addresses
from pymotor.controller.ranktables import merged_ranktable

EXAMPLES = Path(__file__).parents[3] / "examples"
IPS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
COUNTS = ("--prefill-device-cnt", "2", "--decode-device-cnt", "4")
GENERATE = ("ranktable", "generate", "--ips", *IPS, *COUNTS)
SECONDS = 60.0

FAKE_SSH = """#!/bin/sh
# What ssh does with its words, without the way: the host's name is the node, the rest goes to a shell there.
while [ "$1" != "--" ]; do shift; done
host="${2#*@}"
[ "$host" != "$UNREACHABLE" ] || { echo "ssh: connect to host $host port 22: Connection timed out" >&2; exit 255; }
export ASCEND_TOOLS_NODE="$host"
exec sh -c "$3"
"""


class Nodes:
    """Processes on described nodes; all are ended with the test."""

    def __init__(self, directory: Path, **nodes: dict[str, Any]) -> None:
        self.directory = directory
        self.description = {"nodes": {ip: nodes.get(f"node{number}", {}) for number, ip in enumerate(IPS, start=1)}}
        self.running: list[subprocess.Popen[str]] = []

    def environment(self, ip: str) -> dict[str, str]:
        environment = tool_environment(self.directory, self.description, ip)
        return {**environment, "HCCL_IF_IP": ip, "PYTHON": sys.executable}

    def start(self, ip: str, *argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            env=self.environment(ip),
            cwd=self.directory,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.running.append(process)
        return process

    def pymotor(self, ip: str, *words: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of one command; in this process, for speed."""
        output, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
            patch.chdir(self.directory)
            for name, value in self.environment(ip).items():
                patch.setenv(name, value)
            try:
                status = main(words)
            except SystemExit as exit_of_parser:
                status = int(exit_of_parser.code or 0)
        return status, output.getvalue(), errors.getvalue()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=SECONDS)
    return process.returncode, output, errors


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    yield from kept(Nodes(tmp_path))


def kept(nodes: Nodes) -> Iterator[Nodes]:
    yield nodes
    for process in nodes.running:
        process.kill()
        process.communicate()


def devices_of(file: Path) -> list[tuple[str, str, str, str]]:
    """(role, server, device, address) of a ranktable, in its order."""
    content = json.loads(file.read_text())
    return [
        (role, entry["server_id"], entry["device_id"], entry["device_ip"])
        for role in ("prefill", "decode")
        for entry in content[f"{role}_device_list"]
    ]


EXPECTED = [
    ("prefill", IPS[0], "0", "29.1.1.10"),
    ("prefill", IPS[0], "1", "29.1.1.11"),
    ("decode", IPS[1], "6", "29.1.2.16"),
    ("decode", IPS[1], "7", "29.1.2.17"),
    ("decode", IPS[2], "6", "29.1.3.16"),
    ("decode", IPS[2], "7", "29.1.3.17"),
]


def test_the_script_on_three_nodes(nodes: Nodes) -> None:
    """Each node has its copy of the examples; the table lies beside the script, by either name of the directory."""
    running, port = [], str(free_port())
    for ip, device_ids in zip(IPS, ("0,1", "6,7", "6,7"), strict=True):
        examples = nodes.directory / ip / "examples"
        script = EXAMPLES / "disaggregated_prefill_v1" / "gen_ranktable.sh"
        (examples / "disaggregated_prefill_v1").mkdir(parents=True)
        shutil.copy(script, examples / "disaggregated_prefill_v1")
        shutil.copy(EXAMPLES / "disaggregate_prefill_v1", examples, follow_symlinks=False)
        called = examples / "disaggregate_prefill_v1" / "gen_ranktable.sh"
        words = ["--ips", *IPS, "--npus-per-node", "2", "--network-card-name", "eth0", *COUNTS]
        words += ["--port", port, "--local-device-ids", device_ids]
        running.append(nodes.start(ip, "bash", str(called), *words))
    for ip, process in zip(IPS, running, strict=True):
        status, _, errors = ended(process)
        assert status == 0, errors
        assert devices_of(nodes.directory / ip / "examples/disaggregated_prefill_v1/ranktable.json") == EXPECTED
        assert "waiting for" in errors
    status, output, _ = nodes.pymotor(
        IPS[0], "ranktable", "check", f"{IPS[0]}/examples/disaggregated_prefill_v1/ranktable.json"
    )
    assert (status, "2 devices prefill, 4 decode" in output) == (0, True)


def test_the_other_name_of_the_directory_is_a_link() -> None:
    assert os.readlink(EXAMPLES / "disaggregate_prefill_v1") == "disaggregated_prefill_v1"


@pytest.fixture
def ssh(nodes: Nodes) -> str:
    """A program that stands for ssh, and one that stands for pymotor on the other side."""
    program = nodes.directory / "ssh"
    program.write_text(FAKE_SSH)
    program.chmod(0o755)
    return str(program)


def by_ssh(nodes: Nodes, ssh: str, *words: str) -> tuple[int, str, str]:
    reach = ("--ssh", "--ssh-command", ssh, "--remote-pymotor", f"{sys.executable} -m pymotor", "--ssh-user", "root")
    return nodes.pymotor(IPS[0], *GENERATE, *reach, *words)


def test_once_by_ssh(nodes: Nodes, ssh: str) -> None:
    chosen = ("--local-device-ids", "6,7", "--node-device-ids", f"{IPS[0]}=0,1")
    status, output, errors = by_ssh(nodes, ssh, *chosen)
    assert (status, output) == (0, ""), errors
    assert devices_of(nodes.directory / "ranktable.json") == EXPECTED


def test_by_ssh_every_node_that_fails_is_named(nodes: Nodes, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREACHABLE", IPS[2])
    status, _, errors = by_ssh(nodes, ssh, "--node-device-ids", f"{IPS[1]}=6,12")
    assert status == 1
    assert f"error: node {IPS[1]}: there is no device 12; it has 0, 1, 2, 3, 4, 5, 6, 7" in errors
    assert f"error: node {IPS[2]}: " in errors
    assert "Connection timed out" in errors
    assert not (nodes.directory / "ranktable.json").exists()


def test_files_of_an_a3(tmp_path: Path) -> None:
    a3 = {"generation": "A3"}
    for nodes in kept(Nodes(tmp_path, node1=a3, node2=a3, node3=a3)):
        for ip in IPS[:2]:
            words = ("--local-host", ip, "--npus-per-node", "3", "-o", f"{ip}.json")
            assert nodes.pymotor(ip, "ranktable", "collect", *words) == (0, "", "")
        merge = ("ranktable", "merge", f"{IPS[1]}.json", f"{IPS[0]}.json", *COUNTS, "--ips", *IPS[:2], "-o", "-")
        status, output, errors = nodes.pymotor(IPS[0], *merge)
        assert (status, errors) == (0, "")
        table = json.loads(output)
        assert table["server_count"] == "2"
        assert table["prefill_device_list"][1] == {
            "server_id": IPS[0],
            "device_id": "1",
            "device_ip": "192.168.1.198",
            "super_pod_id": "0",
            "super_device_id": str(1 << 22 | 1 << 16 | 1),
            "cluster_id": "2",
        }
        status, _, errors = nodes.pymotor(IPS[0], "ranktable", "merge", f"{IPS[0]}.json", f"{IPS[0]}.json", *COUNTS)
        assert (status, f"node {IPS[0]}: 2 files of this node" in errors) == (1, True)


@pytest.mark.parametrize("generation", ["A2", "A3"])
def test_the_table_of_a_pod_is_one_that_the_controller_joins_with_others(tmp_path: Path, generation: str) -> None:
    kinds = {name: {"generation": generation} for name in ("node1", "node2", "node3")}
    tables = []
    for nodes in kept(Nodes(tmp_path, **kinds)):
        for ip in IPS[:2]:
            words = (
                "ranktable",
                "collect",
                "--hccl",
                "--local-host",
                ip,
                "--npus-per-node",
                "2",
                "-o",
                f"{ip}/hccl.json",
            )
            assert nodes.pymotor(ip, *words) == (0, "", "")
            tables.append((tmp_path / ip / "hccl.json").read_text())
    whole = json.loads(merged_ranktable(tables))
    assert (whole["version"], whole["server_count"], whole["status"]) == ("1.0", "2", "completed")
    assert [server["server_id"] for server in whole["server_list"]] == list(IPS[:2])
    devices = [device for server in whole["server_list"] for device in server["device"]]
    assert [device["rank_id"] for device in devices] == ["0", "1", "2", "3"]
    assert [device["device_id"] for device in devices] == ["0", "1", "0", "1"]
    assert all(("super_device_id" in device) == (generation == "A3") for device in devices)
    assert device_addresses(tables[0])["1"] == devices[1]["device_ip"] != ""


@pytest.mark.parametrize(
    ("node", "words", "said"),
    [
        ({}, ["--local-device-ids", "0,9,1"], "there is no device 9; it has 0, 1, 2, 3, 4, 5, 6, 7"),
        ({}, ["--local-device-ids", "0,1,0"], "device 0 is named twice in --local-device-ids"),
        ({}, ["--local-device-ids", "0", "--npus-per-node", "2"], "--npus-per-node says 2 but"),
        ({}, ["--npus-per-node", "16"], "--npus-per-node asks for 16 devices but it has 0, 1, 2, 3, 4, 5, 6, 7"),
        ({"devices": {"6": {"ip": None}}}, ["--local-device-ids", "5,6"], "device 6 has no address: `hccn_tool -i 6"),
        ({"devices": {"6": {"ip": "0.0.0.0"}}}, [], "device 6 has no address"),
        ({"generation": "A3", "cards": 2, "devices": {"3": {"super_device_id": None}}}, [], "device 3 has no SDID"),
        ({"generation": "A3", "cards": 2, "devices": {"3": {"vnic": None}}}, [], "device 3 has no address"),
        ({"missing_cards": [5]}, [], "card 5 is listed by `npu-smi info -l` but has no chip"),
        ({"absent_cards": [5], "total_count": 8}, [], "counts 8 cards but lists 7"),
        ({"absent_cards": [5]}, ["--local-device-ids", "5"], "there is no device 5"),
        (
            {"answers": {"npu-smi info -l": {"text": "dcmi module initialize failed. ret is -8005\n", "status": 1}}},
            [],
            "no devices found: `npu-smi info -l` ended with 1 and printed 'dcmi module initialize failed. ret is",
        ),
    ],
)
def test_what_a_node_lacks_is_named(tmp_path: Path, node: dict[str, Any], words: list[str], said: str) -> None:
    for nodes in kept(Nodes(tmp_path, node2=node)):
        status, output, errors = nodes.pymotor(IPS[1], "ranktable", "collect", "--local-host", IPS[1], *words)
        assert (status, output) == (1, "")
        assert errors.startswith(f"error: node {IPS[1]}: ")
        assert said in errors
        assert "Traceback" not in errors


def test_old_and_new_drivers_give_the_same(tmp_path: Path) -> None:
    """With the physical ids in `npu-smi info -m`, without them, and without `npu-smi info -m` itself."""
    unknown = {"answers": {"npu-smi info -m": {"text": "Error parameters!\n", "status": 1}}}
    described = {"node1": {"phy_id_column": True}, "node2": {"phy_id_column": False}, "node3": unknown}
    for generation in ("A2", "A3"):
        nodes_of = {name: {**content, "generation": generation, "cards": 2} for name, content in described.items()}
        for nodes in kept(Nodes(tmp_path, **nodes_of)):
            last = 1 if generation == "A2" else 3
            for ip in IPS:
                words = ("--local-host", ip, "--local-device-ids", str(last))
                status, output, errors = nodes.pymotor(ip, "ranktable", "collect", *words)
                assert status == 0, errors
                (device,) = json.loads(output)["devices"]
                number = ip[-1]
                expected = f"29.1.{number}.11" if generation == "A2" else f"192.168.{number}.196"
                assert (device["device_id"], device["device_ip"]) == (last, expected)


def test_one_address_on_two_nodes(tmp_path: Path) -> None:
    twice = {"devices": {"0": {"ip": "29.1.1.11"}}}
    for nodes in kept(Nodes(tmp_path, node2=twice)):
        words = ("--local-device-ids", "0,1")
        for ip in IPS[:2]:
            nodes.pymotor(ip, "ranktable", "collect", "--local-host", ip, *words, "-o", f"{ip}.json")
        counts = ("--prefill-device-cnt", "2", "--decode-device-cnt", "2")
        status, _, errors = nodes.pymotor(IPS[0], "ranktable", "merge", f"{IPS[0]}.json", f"{IPS[1]}.json", *counts)
        assert status == 1
        assert f"node {IPS[1]}, device 0: device_ip 29.1.1.11 is there already" in errors
        assert f"(node {IPS[0]}, device 1)" in errors
        status, _, errors = nodes.pymotor(IPS[0], "ranktable", "merge", f"{IPS[0]}.json", *counts)
        assert (status, "4 devices are wanted" in errors, f"node {IPS[0]} has 2" in errors) == (1, True, True)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["generate", "--ips", "127.0.0.1"], 2, "--prefill-device-cnt"),
        (["generate", "--ips", "node-1", *COUNTS], 2, "'node-1' is no IP address"),
        (["generate", "--ips", "127.0.0.1", "127.0.0.1", *COUNTS], 2, "127.0.0.1 is there twice"),
        (["generate", "--ips", "198.51.100.1", *COUNTS], 1, "none of --ips is an address of this host"),
        (["generate", "--ips", *IPS, *COUNTS, "--local-device-ids", "0;1"], 2, "is not a list of device ids"),
        (["generate", "--ips", *IPS, *COUNTS, "--npu", "x", "--unknown"], 2, "--npu"),
        (["generate", "--ips", *IPS, *COUNTS, "--ssh", "--ssh-command", ""], 2, "at least one word"),
        (["generate", "--ips", *IPS, *COUNTS, "--ssh", "--remote-pymotor", "'"], 2, "--remote-pymotor"),
        (["collect"], 2, "--local-host"),
        (["check", "nothing.json"], 2, "No such file"),
        (["merge", "nothing.json", *COUNTS], 2, "No such file"),
    ],
)
def test_wrong_usage(nodes: Nodes, words: list[str], status: int, said: str) -> None:
    got, _, errors = nodes.pymotor(IPS[0], "ranktable", *words)
    assert got == status, errors
    assert said in errors
    assert "Traceback" not in errors


def test_check_for_programs(nodes: Nodes) -> None:
    (nodes.directory / "bad.json").write_text('{"version": "1.2", "status": "completed"}')
    status, output, _ = nodes.pymotor(IPS[0], "ranktable", "check", "bad.json", "--json")
    answer = json.loads(output)
    assert (status, answer["ok"]) == (1, False)
    assert {"severity", "path", "node", "device", "message"} == set(answer["problems"][0])
    for number, text in enumerate(("{", "[" * 100_000, '{"version": ' + "[" * 900 + "]" * 900 + "}")):
        (nodes.directory / f"worse{number}.json").write_text(text)
        status, output, _ = nodes.pymotor(IPS[0], "ranktable", "check", f"worse{number}.json", "--json")
        assert (status, json.loads(output)["ok"]) == (1, False)


def test_a_file_moves_no_cursor_and_needs_no_time(nodes: Nodes) -> None:
    text = json.dumps({"server_count": "9" * 5000, "\x1b[2J": 1})
    (nodes.directory / "odd.json").write_text(text)
    status, output, _ = nodes.pymotor(IPS[0], "ranktable", "check", "odd.json")
    assert (status, "\x1b" in output, "must be a number" in output) == (1, False, True)


def _runs(pid: int) -> bool:
    """Whether it lives; one that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_tool_ends_with_the_command_that_ran_it(nodes: Nodes) -> None:
    """As when whoever waits for a node gives up: nothing is left behind there."""
    started = nodes.directory / "started"
    os.mkfifo(started)
    tool = nodes.directory / "slow" / "npu-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 600\n")
    tool.chmod(0o755)
    asking = subprocess.Popen(
        [sys.executable, "-m", "pymotor", "ranktable", "collect", "--local-host", IPS[0]],
        env={**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    nodes.running.append(asking)
    tool_pid = int(started.read_text())
    asking.terminate()
    status, _, errors = ended(asking)
    assert (status, errors) == (143, "")
    assert not _runs(tool_pid)
