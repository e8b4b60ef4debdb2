"""Nodes that make one ranktable together: real sockets on several addresses of loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from free_ports import free_port
from pymotor.ascend.ranktable import NodeDevice, NodeRecord, RanktableError
from pymotor.ascend.ranktable_exchange import Meeting, exchange

IPS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
JOB = {"--prefill-device-cnt": 2, "--decode-device-cnt": 4}


def record(ip: str) -> NodeRecord:
    number = int(ip.rpartition(".")[2])
    return NodeRecord(ip, "A2", (NodeDevice(0, f"29.1.{number}.10"), NodeDevice(1, f"29.1.{number}.11")))


class Nodes:
    """Nodes of one meeting; `said` is what each reported, by address."""

    def __init__(self, timeout: float = 20.0) -> None:
        self.port = free_port()
        self.timeout = timeout
        self.said: dict[str, list[str]] = {}

    def start(
        self, ip: str, own: NodeRecord | str | None = None, *, token: bytes = b"", job: dict[str, Any] | None = None
    ) -> asyncio.Task[list[NodeRecord]]:
        said = self.said.setdefault(ip, [])
        meeting = Meeting(IPS, ip, self.port, token, JOB if job is None else job, self.timeout)
        return asyncio.ensure_future(exchange(meeting, record(ip) if own is None else own, said.append))

    async def reported(self, ip: str, text: str) -> None:
        """Wait until a node has reported something with this text."""

        async def seen() -> None:
            while not any(text in line for line in self.said.get(ip, [])):  # noqa: ASYNC110 - reports are no events
                await asyncio.sleep(0.01)

        await asyncio.wait_for(seen(), 60)


async def failures(tasks: Sequence[asyncio.Task[Any]]) -> list[str]:
    """What each task ended with: the text of its error, or nothing."""
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, (list, RanktableError)) for one in ended), ended
    return [str(one) if isinstance(one, RanktableError) else "" for one in ended]


@pytest.mark.parametrize("order", list(itertools.permutations(IPS)))
async def test_all_nodes_get_the_same_in_the_order_of_the_addresses(order: tuple[str, ...]) -> None:
    nodes = Nodes()
    tasks = []
    for ip in order:
        tasks.append(nodes.start(ip))
        await nodes.reported(ip, "waiting for")
    results = await asyncio.gather(*tasks)
    assert results == [[record(ip) for ip in IPS]] * 3


async def test_waiting_nodes_say_for_whom() -> None:
    nodes = Nodes()
    tasks = [nodes.start(ip) for ip in IPS[:2]]
    await nodes.reported(IPS[0], "waiting for 127.0.0.3 …")
    await nodes.reported(IPS[1], "waiting for 127.0.0.3 …")
    tasks.append(nodes.start(IPS[2]))
    assert await failures(tasks) == ["", "", ""]


async def test_a_node_that_never_comes_is_named_everywhere() -> None:
    nodes = Nodes(timeout=1.0)
    first, second = await failures([nodes.start(IPS[0]), nodes.start(IPS[1])])
    assert "no word from 127.0.0.3 within 1 s" in first
    assert second == first


async def test_a_first_node_that_never_comes_is_named() -> None:
    (said,) = await failures([Nodes(timeout=0.8).start(IPS[1])])
    assert "127.0.0.1 port" in said
    assert "start the same command there" in said


@pytest.mark.parametrize("broken", IPS)
async def test_a_node_without_its_devices_ends_the_run_on_all(broken: str) -> None:
    nodes = Nodes()
    why = f"node {broken}: there is no device 9"
    tasks = [nodes.start(ip, why if ip == broken else None) for ip in IPS]
    assert await failures(tasks) == [why] * 3


async def test_another_ranktable_is_refused_and_the_run_goes_on() -> None:
    nodes = Nodes()
    first = nodes.start(IPS[0])
    (said,) = await failures([nodes.start(IPS[1], job={**JOB, "--decode-device-cnt": 8})])
    assert "started for another ranktable: --decode-device-cnt 8 there, 4 on 127.0.0.1" in said
    assert await failures([first, nodes.start(IPS[1]), nodes.start(IPS[2])]) == ["", "", ""]


async def test_a_host_that_is_not_asked_for_is_refused() -> None:
    nodes = Nodes()
    first = nodes.start(IPS[0])
    await nodes.reported(IPS[0], "waiting")
    meeting = Meeting((IPS[0], "127.0.0.9"), "127.0.0.9", nodes.port, b"", JOB, 5.0)
    with pytest.raises(RanktableError, match=r"127\.0\.0\.9 is not one of --ips"):
        await exchange(meeting, record("127.0.0.9"), lambda _: None)
    assert await failures([first, nodes.start(IPS[1]), nodes.start(IPS[2])]) == ["", "", ""]


async def test_a_node_cannot_bring_the_devices_of_another() -> None:
    nodes = Nodes()
    first = nodes.start(IPS[0])
    (said,) = await failures([nodes.start(IPS[1], record(IPS[2]))])
    assert "127.0.0.2 brings the devices of 127.0.0.3" in said
    assert await failures([first, nodes.start(IPS[1]), nodes.start(IPS[2])]) == ["", "", ""]


async def test_a_second_run_on_a_node_is_refused() -> None:
    nodes = Nodes()
    tasks = [nodes.start(IPS[0]), nodes.start(IPS[1])]
    await nodes.reported(IPS[1], "127.0.0.3")
    (said,) = await failures([nodes.start(IPS[1])])
    assert "the command runs twice there" in said
    (said,) = await failures([nodes.start(IPS[0])])
    assert "another run may still be waiting there" in said
    assert await failures([*tasks, nodes.start(IPS[2])]) == ["", "", ""]


async def test_a_node_that_goes_away_may_come_again() -> None:
    nodes = Nodes()
    first, second = nodes.start(IPS[0]), nodes.start(IPS[1])
    await nodes.reported(IPS[0], "waiting for 127.0.0.3 …")
    second.cancel()
    await nodes.reported(IPS[0], "is gone")
    assert nodes.said[IPS[0]][-2] == "waiting for 127.0.0.2, 127.0.0.3 …"
    assert await failures([first, nodes.start(IPS[1]), nodes.start(IPS[2])]) == ["", "", ""]


async def test_a_first_node_that_is_started_again_is_found_again() -> None:
    nodes = Nodes()
    first, second = nodes.start(IPS[0]), nodes.start(IPS[1])
    await nodes.reported(IPS[0], "waiting for 127.0.0.3 …")
    first.cancel()
    await asyncio.wait([first])
    assert await failures([nodes.start(IPS[0]), second, nodes.start(IPS[2])]) == ["", "", ""]


async def test_only_who_knows_the_token_takes_part() -> None:
    nodes = Nodes()
    first = nodes.start(IPS[0], token=b"right")
    for token in (b"", b"wrong"):
        (said,) = await failures([nodes.start(IPS[1], token=token)])
        assert "set the same PYMOTOR_RANKTABLE_TOKEN on every node" in said
    assert not any("right" in line or "wrong" in line for lines in nodes.said.values() for line in lines)
    tasks = [first, nodes.start(IPS[1], token=b"right"), nodes.start(IPS[2], token=b"right")]
    assert await failures(tasks) == ["", "", ""]


GREETING = json.dumps({"protocol": "pymotor-ranktable-1", "challenge": "0" * 32}).encode() + b"\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"[" * 100_000 + b"\n",
        b"x" * 5_000_000,
        GREETING + b"{}\n",
        GREETING + b"null\n",
        GREETING + b'{"message": 1, "proof": "\\ud800"}\n',
        GREETING + b"[" * 100_000 + b"\n",
        GREETING + b"\xff\xfe\n",
        GREETING + b'{"message": "{}", "pro',
    ],
)
async def test_strangers_at_the_port_disturb_nobody(sent: bytes) -> None:
    nodes = Nodes()
    first = nodes.start(IPS[0])
    await nodes.reported(IPS[0], "waiting")
    _, writer = await asyncio.open_connection(IPS[0], nodes.port)
    try:
        writer.write(sent)
        if sent:
            await writer.drain()
    except ConnectionError:
        pass
    assert await failures([first, nodes.start(IPS[1]), nodes.start(IPS[2])]) == ["", "", ""]
    writer.close()


async def test_another_program_at_the_port_is_not_taken_for_the_first_node() -> None:
    nodes = Nodes(timeout=5.0)

    async def ssh_like(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(ssh_like, IPS[0], nodes.port)
    async with server:
        (said,) = await failures([nodes.start(IPS[1])])
    assert "another program, or another version of PyMotor" in said


async def test_the_first_node_listens_on_its_own_address_only() -> None:
    nodes = Nodes()
    first = nodes.start(IPS[0])
    await nodes.reported(IPS[0], "waiting")
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.7", nodes.port)
    first.cancel()
    await asyncio.wait([first])
