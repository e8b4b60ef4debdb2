"""`pymotor netcheck` as typed: several nodes by ssh and by files, TCP, tools that hang, are busy or are not there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netcheck_nodes import Console, Fleet, bad

from free_ports import free_port

NODES = ("node-a", "node-b", "node-c")


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    """Three A2 nodes of two devices."""
    console = Console(Fleet(tmp_path / "fleet", "A2", NODES, 2), monkeypatch, capsys)
    console.fleet.record()
    return console


@pytest.fixture
def port() -> Iterator[int]:
    """A port of loopback that refuses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_the_table_says_what_is_wrong_and_what_to_do(console: Console) -> None:
    console.fleet.break_device("node-b", 1, link="DOWN", pings_although_down=True, health="Fault")
    console.fleet.break_device("node-b", 0, gateway=None)
    console.fleet.record()
    status, said, complaint = console.type(
        "--node-name", "node-a", "--nodes", "root@node-b,node-c", "--hccn-conf", "hccn.conf", "--ping", "all"
    )
    assert (status, complaint) == (1, "")
    lines = [line.split() for line in said.splitlines()]
    assert ["node-a", "0-1", "link", "good", "UP"] in lines
    assert ["node-b", "0", "link", "good", "UP"] in lines
    # Ping is decisive: such a port is to be looked at, no more.
    assert [words[:4] for words in lines if words[:2] == ["node-b", "1"] and words[2] in ("link", "health")] == [
        ["node-b", "1", "link", "warning"],
        ["node-b", "1", "health", "warning"],
    ]
    assert "hccn_tool -i 0 -gateway -s gateway" in said
    assert said.splitlines()[-1] == "3 nodes, 6 devices: 1 failed, 2 warning, 51 good"
    asked = (console.fleet.directory / "ssh.log").read_text().splitlines()
    assert sorted(words.split()[1] for words in asked) == ["node-c", "root@node-b"]


def test_files_of_three_nodes_give_the_same_verdict_as_ssh(console: Console, tmp_path: Path) -> None:
    console.fleet.break_device("node-c", 1, tls=1)
    console.fleet.record()
    files = [tmp_path / f"{node}.json" for node in NODES]
    for turn in ([], ["--peers", *files]):
        for node, file in zip(NODES, files, strict=True):
            collect = ("collect", "-o", file, "--node-name", node, "--hccn-conf", "hccn.conf", "--ping", "all")
            status, said, complaint = console.type(*collect, *turn, node=node)
            assert (status, complaint) == (0, "")
            assert said.startswith(f"{node}: 2 devices, {8 * bool(turn)} pings")
    status, said, _ = console.type("judge", "--json", *files)
    assert (status, bad(json.loads(said))) == (
        1,
        {("node-c", 1, "tls"): "failed", ("node-c", 1, "ping"): "failed"},
    )
    by_ssh = console.check("--nodes", "node-b", "node-c", "--ping", "all")
    assert by_ssh == (1, json.loads(said))


def test_a_ranktable_names_whom_to_ping(console: Console, tmp_path: Path) -> None:
    def entry(node: int, device: int) -> dict[str, str]:
        return {"server_id": f"192.0.0.{node}", "device_id": str(device), "device_ip": f"29.1.{node}.{10 + device}"}

    table = {"prefill_device_list": [entry(1, 0), entry(1, 1)], "decode_device_list": [entry(2, 0), entry(2, 1)]}
    path = tmp_path / "ranktable.json"
    path.write_text(json.dumps(table))
    options = ("--node-name", "node-a", "--hccn-conf", "hccn.conf", "--ranktable", path)
    status, said, _ = console.type(*options)
    assert status == 0
    assert "2 of 2 reached" in said
    # Its own entries are known by their addresses and not pinged.
    table["decode_device_list"].append(entry(9, 9))
    path.write_text(json.dumps(table))
    status, said, _ = console.type(*options, "--json", "--ping", "all")
    assert bad(json.loads(said)) == {("192.0.0.9", 9, "ping"): "failed"}


def test_ports_are_open_refused_or_silent(console: Console, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as full, socket.socket() as filling:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filling.connect(full.getsockname())  # The backlog is full now: further SYNs get no answer.
        ports = [server.getsockname()[1], port, full.getsockname()[1]]
        options = ("--steps", "tcp", "--tcp-hosts", "127.0.0.1,nosuch.invalid", "--tcp-timeout", "1", "--json")
        status, said, _ = console.type(*options, "--tcp-ports", ",".join(map(str, ports)))
    seen = [it["seen"].partition(" (")[0] for it in json.loads(said)["findings"] if it["step"] == "tcp"]
    assert seen[:3] == [
        f"127.0.0.1:{ports[0]} open",
        f"127.0.0.1:{ports[1]} refused",
        f"127.0.0.1:{ports[2]} timed out",
    ]
    assert set(seen[3:]) <= {f"nosuch.invalid:{number} {why}" for number in ports for why in ("unknown name", "failed")}
    assert status == 1


def test_each_node_connects_to_the_others(tmp_path: Path, console: Console) -> None:
    console.fleet = Fleet(tmp_path / "loopback", "A2", ("node-a", "127.0.0.2"), 1)
    console.fleet.record()
    with socket.create_server(("127.0.0.2", 0)) as server:
        number = server.getsockname()[1]
        status, said, _ = console.type(
            *("--node-name", "node-a", "--nodes", "root@127.0.0.2", "127.0.0.2"),
            *("--tcp-ports", number, "--steps", "tcp", "--json"),
        )
    seen = {it["node"]: it["seen"].partition(" (")[0] for it in json.loads(said)["findings"] if it["step"] == "tcp"}
    assert seen == {"node-a": f"127.0.0.2:{number} open", "127.0.0.2": f"127.0.0.1:{number} refused"}
    assert status == 1


def test_a_way_is_tried_before_servers_run(console: Console) -> None:
    number = free_port()
    options = ("--steps", "tcp", "--tcp-hosts", "127.0.0.1", "--tcp-ports", number)
    assert console.type(*options)[0] == 1
    assert console.type(*options, "--tcp-listen")[0] == 0
    assert console.type(*options)[0] == 1, "the port is given back"


def test_a_tool_that_hangs_is_ended_and_named(console: Console) -> None:
    console.fleet.break_device("node-a", 1, answers={"-gateway -g": {"seconds": 4321}})
    console.fleet.record()
    status, report = console.check("--devices", "1", "--steps", "link,gateway", "--timeout", "2", "--ping", "none")
    assert status == 1
    assert bad(report) == {("node-a", 1, "gateway"): "failed"}
    assert "sleep 4321" not in " ".join(running())


def running() -> list[str]:
    """Command lines of all processes."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("asked", ["npu-smi info -l", "hccn_tool -i 0 -lldp -g"])
def test_everything_ends_with_the_command(console: Console, asked: str, how: signal.Signals) -> None:
    hanging = f"sleep 8765.{how:d}{len(asked)}"
    console.fleet.description["nodes"]["node-b"]["answers"] = {asked: {"seconds": hanging.split()[1]}}
    console.fleet.record()
    typed = [sys.executable, "-m", "pymotor", "netcheck", "--not-here", "--nodes", "node-b", "--hccn-conf", "hccn.conf"]
    with subprocess.Popen(
        typed,
        env={**os.environ, **console.fleet.environment()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        wait_until(lambda: hanging in " ".join(running()))
        process.send_signal(how)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -9)
    assert complaint == b""
    wait_until(lambda: hanging not in " ".join(running()))


def wait_until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_a_busy_tool_is_asked_again(console: Console) -> None:
    turns = console.fleet.directory / "node-a" / "turns"
    answer = console.fleet.directory / "node-a" / "answers" / "hccn_tool -i 0 -link -g"
    answer.write_text(
        f'echo x >> "{turns}"\nif [ "$(wc -l < "{turns}")" -lt 3 ]; then echo "hccn_tool is busy, please try again"; '
        "else echo 'link status: UP'; fi\n"
    )
    status, report = console.check("--devices", "0", "--steps", "link", "--ping", "none")
    assert (status, bad(report)) == (0, {})
    assert turns.read_text() == "x\n" * 3


def test_a_node_that_cannot_be_reached_is_named_and_the_others_are_checked(console: Console) -> None:
    status, report = console.check("--nodes", "node-b", "nowhere")
    assert (status, bad(report)) == (1, {("nowhere", None, "node"): "failed"})
    assert any("No route to host" in found["seen"] for found in report["findings"])


def test_a_machine_without_hccn_conf(console: Console) -> None:
    (console.fleet.directory / "node-b" / "hccn.conf").unlink()
    assert bad(console.check()[1]) == {("node-b", None, "config"): "failed"}


def test_steps_that_the_machine_does_not_have_are_not_good(console: Console) -> None:
    for device in (0, 1):
        console.fleet.break_device(
            "node-a", device, answers={"-tls -g": {"text": "This device does not support this function\n", "status": 1}}
        )
    console.fleet.record()
    status, report = console.check()
    assert (status, bad(report)) == (0, {})
    assert {
        found["verdict"] for found in report["findings"] if (found["node"], found["step"]) == ("node-a", "tls")
    } == {"not checked"}


@pytest.mark.parametrize("tool", ["hccn_tool", "npu-smi"])
def test_without_the_tools_it_says_how_to_get_on(console: Console, tool: str) -> None:
    (console.fleet.bin / tool).unlink()
    status, said, complaint = console.type()
    assert (status, said) == (2, "")
    assert tool in complaint
    assert ("--hccn-tool" if tool == "hccn_tool" else "--devices") in complaint


def test_devices_named_by_hand_need_no_npu_smi(console: Console) -> None:
    (console.fleet.bin / "npu-smi").unlink()
    named = ("--devices", "0,1", "--hccn-conf", "hccn.conf")
    status, said, complaint = console.type(*named)
    assert (status, said) == (2, "")
    assert "--generation A2" in complaint
    status, said, _ = console.type(*named, "--generation", "a2")
    assert status == 0, said


@pytest.mark.parametrize(
    "words",
    [
        ["--devices", "7-0"],
        ["--devices", "0,0"],
        ["--steps", "linc"],
        ["--tcp-ports", "0"],
        ["--nodes", "-oProxyCommand=true"],
        ["--nodes", "node-b;true"],
        ["--nodes", "$(true)"],
        ["--not-here"],
        ["--timeout", "0"],
        ["--ranktable", "/nonexistent"],
        ["judge", "/nonexistent"],
        ["collect"],
    ],
)
def test_wrong_usage(console: Console, words: list[str]) -> None:
    status, said, complaint = console.type(*words)
    assert (status, said) == (2, "")
    assert complaint
    assert "Traceback" not in complaint


def test_one_node_twice_is_refused(console: Console, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    console.type("collect", "-o", file)
    status, _, complaint = console.type("judge", file, file)
    assert status == 2
    assert "--node-name" in complaint
