"""The same command on every node: the first of them collects what each one adds and gives the whole to all.

    node                                   first node
      greeting            <->              greeting                (ranktable_channel.py)
      {"job", "node"}      ->              of a node that can say what it adds
      {"job", "failure"}   ->              of a node that cannot: ends the run on all nodes
                          <-               {"refused": why}        this node is not wanted; others are waited for
                          <-               {"waiting_for": [ips]}  at each change, and every few seconds
                          <-               {"nodes": [records]}    in the order of --ips
                          <-               {"failure": why}
      {"received": true}   ->

A node that calls again replaces itself only when its former connection has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymotor.ascend.ranktable import NodeRecord, RanktableError, same_address
from pymotor.ascend.ranktable_channel import MAX_LINE, Channel, ChannelError

HANDSHAKE_SECONDS = 10.0
NEWS_SECONDS = 5.0
SILENCE_SECONDS = 4 * NEWS_SECONDS
RETRY_SECONDS = 0.5
LINGER_SECONDS = 10.0
"""How long the first node stays after a failure, to tell it to nodes that have not called yet."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Meeting:
    """Where and about what the nodes meet.

    `ips` in the order of the ranktable, `job` what must be equal on all of them, `timeout` in seconds for the whole.
    """

    ips: tuple[str, ...]
    own_ip: str
    port: int
    token: bytes
    job: dict[str, Any]
    timeout: float


async def exchange(meeting: Meeting, own: NodeRecord | str, report: Report) -> list[NodeRecord]:
    """All nodes' records, in the order of the ips. `own` is what this node adds, or why it cannot.

    Raises:
        RanktableError: a node failed or did not come in time, or the nodes do not agree about the job.
    """
    if len(meeting.ips) == 1:
        return [_record_or_raise(own)]
    if same_address(meeting.own_ip, meeting.ips[0]):
        return await _Collector(meeting, report).collect(own)
    return await _join(meeting, own, report)


def _record_or_raise(own: NodeRecord | str) -> NodeRecord:
    if isinstance(own, str):
        raise RanktableError(own)
    return own


class _Collector:
    """The first node: listens on its own address only, until every node has come and has been answered."""

    def __init__(self, meeting: Meeting, report: Report) -> None:
        self._meeting = meeting
        self._report = report
        self._records: dict[str, NodeRecord] = {}
        self._here: set[str] = set()
        self._told: set[str] = set()
        self._whole: list[NodeRecord] | None = None
        self._failure = ""
        self._news = asyncio.Event()
        self._serving: set[asyncio.Task[Any]] = set()

    async def collect(self, own: NodeRecord | str) -> list[NodeRecord]:
        ips, own_ip, port = self._meeting.ips, self._meeting.own_ip, self._meeting.port
        self._take(ips[0], own)
        try:
            server = await asyncio.start_server(self._serve, own_ip, port, limit=MAX_LINE)
        except OSError as error:
            raise RanktableError(
                f"cannot listen on {own_ip} port {port} ({error.strerror}): another run may still be waiting there; "
                "end it, or give all nodes another --port"
            ) from error
        try:
            self._tell_who_is_missing()
            await self._until(lambda: self._failure or self._whole, self._meeting.timeout)
            given_up = not self._failure and not self._whole
            if given_up:
                self._failure = (
                    f"no word from {', '.join(self._missing())} within {self._meeting.timeout:g} s: start the same "
                    f"command there, and see that it reaches {own_ip} port {port}"
                )
                self._wake()
            # Who has not come in time is not waited for again; after a failure a node may still be on its way.
            await self._until(lambda: not self._here if given_up else self._told >= set(ips[1:]), LINGER_SECONDS)
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
        if self._failure or self._whole is None:
            raise RanktableError(self._failure)
        unheard = [ip for ip in ips[1:] if ip not in self._told]
        if unheard:
            raise RanktableError(f"{', '.join(unheard)} did not confirm the ranktable: run the command again")
        return self._whole

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._serving) >= 2 * len(self._meeting.ips) + 16:
            writer.close()
            return
        self._serving.add(task)
        peer = str(writer.get_extra_info("peername", ["?"])[0])
        try:
            async with _closing(writer):
                greeted = Channel.greet(reader, writer, self._meeting.token, collects=True)
                channel = await asyncio.wait_for(greeted, HANDSHAKE_SECONDS)
                await self._answer(channel, peer)
        except (ChannelError, RanktableError, asyncio.TimeoutError) as error:
            self._report(f"{peer} was turned away: {error or 'it said nothing'}")
        except OSError as error:
            self._report(f"{peer} is gone: {error}")
        finally:
            self._serving.discard(task)

    async def _answer(self, channel: Channel, peer: str) -> None:
        """Take what one node adds, keep it told, and give it the whole."""
        try:
            hello = await asyncio.wait_for(channel.receive(), HANDSHAKE_SECONDS)
            ip = self._admitted(hello, peer)
            given = str(hello["failure"]) if "failure" in hello else NodeRecord.from_json(hello.get("node"))
            if isinstance(given, NodeRecord) and not same_address(given.server_id, ip):
                raise RanktableError(f"{ip} brings the devices of {given.server_id}")
        except (ChannelError, RanktableError) as error:
            # Where the tokens differ, the proof of this message lets the other side see it too.
            await channel.send({"refused": str(error)})
            raise
        self._here.add(ip)
        try:
            self._take(ip, given)
            self._tell_who_is_missing()
            await self._attend(channel)
            self._told.add(ip)
        finally:
            self._here.discard(ip)
            if ip not in self._told and ip in self._records:
                del self._records[ip]
                self._tell_who_is_missing()
            self._wake()

    async def _attend(self, channel: Channel) -> None:
        leaving = asyncio.ensure_future(channel.receive())
        try:
            while True:
                news = self._news
                if self._failure or self._whole:
                    break
                await channel.send({"waiting_for": self._missing()})
                waking = asyncio.ensure_future(news.wait())
                await asyncio.wait((waking, leaving), timeout=NEWS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if leaving.done():
                    leaving.result()
                    raise ChannelError("it speaks out of turn")
            if self._whole:
                await channel.send({"nodes": [record.as_json() for record in self._whole]})
            else:
                await channel.send({"failure": self._failure})
            await asyncio.wait_for(asyncio.shield(leaving), HANDSHAKE_SECONDS)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    def _admitted(self, hello: dict[str, Any], peer: str) -> str:
        """The node's address as --ips spells it. Raises `RanktableError` where it is not to take part."""
        job = self._meeting.job
        ip = next((ip for ip in self._meeting.ips[1:] if _is_same(ip, peer)), None)
        if ip is None:
            raise RanktableError(f"{peer} is not one of --ips: {', '.join(self._meeting.ips)}")
        if ip in self._here or ip in self._told:
            raise RanktableError(f"{ip} takes part already: the command runs twice there")
        theirs = hello.get("job")
        if theirs != job:
            said = theirs if isinstance(theirs, dict) else {}
            differing = "; ".join(
                f"{name} {_shown(said.get(name))} there, {_shown(value)} on {self._meeting.own_ip}"
                for name, value in job.items()
                if said.get(name) != value
            )
            raise RanktableError(f"{ip} was started for another ranktable: {differing or 'another version of PyMotor'}")
        return ip

    def _take(self, ip: str, given: NodeRecord | str) -> None:
        if isinstance(given, NodeRecord):
            self._records[ip] = given
        elif not self._whole:
            self._failure = self._failure or given
        if not self._missing() and not self._failure:
            self._whole = self._whole or [self._records[ip] for ip in self._meeting.ips]
        self._wake()

    def _missing(self) -> list[str]:
        return [ip for ip in self._meeting.ips if ip not in self._records]

    def _tell_who_is_missing(self) -> None:
        if self._missing() and not self._failure and not self._whole:
            self._report(f"waiting for {', '.join(self._missing())} …")

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, condition: Callable[[], object], seconds: float) -> None:
        async def met() -> None:
            while not condition():
                await self._news.wait()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(met(), seconds)


async def _join(meeting: Meeting, own: NodeRecord | str, report: Report) -> list[NodeRecord]:
    """Any other node: calls the first one until it answers; calls again when the connection is lost."""
    first = meeting.ips[0]
    said = {"job": meeting.job, **({"failure": own} if isinstance(own, str) else {"node": own.as_json()})}
    loop = asyncio.get_running_loop()
    ends = loop.time() + meeting.timeout
    report(f"waiting for {first} port {meeting.port} …")
    reason = "no answer"
    while loop.time() < ends:
        try:
            connecting = asyncio.open_connection(first, meeting.port, limit=MAX_LINE, local_addr=(meeting.own_ip, 0))
            reader, writer = await asyncio.wait_for(connecting, min(HANDSHAKE_SECONDS, ends - loop.time()))
            async with _closing(writer):
                greeted = Channel.greet(reader, writer, meeting.token, collects=False)
                channel = await asyncio.wait_for(greeted, HANDSHAKE_SECONDS)
                await channel.send(said)
                # From here on the first node's patience counts, as long as it keeps talking.
                return await _hear(channel, meeting.ips, report)
        except ChannelError as error:
            raise RanktableError(f"{first} port {meeting.port}: {error}") from error
        except (OSError, asyncio.TimeoutError) as error:
            reason = str(error) or "it does not answer"
        await asyncio.sleep(RETRY_SECONDS)
    if isinstance(own, str):
        raise RanktableError(own)
    raise RanktableError(
        f"{first} port {meeting.port} did not give the ranktable within {meeting.timeout:g} s ({reason}): "
        "start the same command there, and on all other nodes"
    )


async def _hear(channel: Channel, ips: Sequence[str], report: Report) -> list[NodeRecord]:
    waited_for: list[Any] = []
    while True:
        message = await asyncio.wait_for(channel.receive(), SILENCE_SECONDS)
        if "refused" in message:
            raise RanktableError(f"{ips[0]} refuses this node: {message['refused']}")
        if "failure" in message:
            with contextlib.suppress(OSError):
                await channel.send({"received": True})
            raise RanktableError(str(message["failure"]))
        if "nodes" in message:
            records = [NodeRecord.from_json(node) for node in _items(message["nodes"])]
            if [record.server_id for record in records] != list(ips):
                raise RanktableError(f"{ips[0]} gives other nodes than {', '.join(ips)}")
            with contextlib.suppress(OSError):
                await channel.send({"received": True})
            return records
        if _items(message.get("waiting_for")) != waited_for:
            waited_for = _items(message.get("waiting_for"))
            report(f"waiting for {', '.join(map(str, waited_for))} …")


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _is_same(one: str, other: str) -> bool:
    with contextlib.suppress(ValueError):
        return same_address(one, other)
    return False


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
