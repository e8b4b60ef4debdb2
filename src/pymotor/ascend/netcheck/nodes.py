"""Speaks with the agent of a node: a Python process of this machine, or one at the other end of ssh."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import shlex
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pymotor.ascend.netcheck.readings import Outcome

_DESTINATION = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_\[:][A-Za-z0-9_.:%\]-]*")
_SSH_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
_HELLO_SECONDS = 30.0
_ENDING_SECONDS = 5.0
_MOST_LINE = 4 * 1024 * 1024


class NodeError(Exception):
    """A node that cannot be spoken with (any more); the text says why."""


class Target(NamedTuple):
    """A node: its name in the table, and where ssh finds it ("" for this machine)."""

    name: str
    destination: str = ""
    ssh_options: tuple[str, ...] = ()


def is_destination(text: str) -> bool:
    """Whether this is `host` or `user@host`: nothing that ssh or a shell could take for something else."""
    return _DESTINATION.fullmatch(text) is not None


class Node:
    """A running agent. Requests of one lane are served in order, those of different lanes beside each other."""

    def __init__(self, target: Target, process: asyncio.subprocess.Process, host: str) -> None:
        self.target = target
        self.host = host
        self._process = process
        self._numbers = itertools.count(1)
        self._writing = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def run(self, lane: str, argv: Sequence[str], timeout: float, tries: int = 1) -> Outcome:
        """A command; `timeout` in seconds, over all `tries` that a busy tool is given. Raises NodeError."""
        reply = await self._ask(lane, "run", argv=list(argv), timeout=timeout, tries=tries)
        return _outcome(reply, tuple(argv))

    async def read(self, path: str) -> Outcome:
        """A file. Raises NodeError."""
        return _outcome(await self._ask("files", "read", path=path), ("cat", path))

    async def find(self, candidates: Sequence[str]) -> str:
        """The path of the first program that is there, "" where none is. Raises NodeError."""
        reply = await self._ask("files", "find", candidates=list(candidates))
        return str(reply.get("output", ""))

    async def connect(self, host: str, port: int, timeout: float) -> Outcome:
        """A TCP connection from the node. Raises NodeError."""
        reply = await self._ask(f"{host} {port}", "connect", host=host, port=port, timeout=timeout)
        return _outcome(reply, ())

    async def listen(self, port: int) -> Outcome:
        """Listens on a port of the node until the agent ends. Raises NodeError."""
        return _outcome(await self._ask("files", "listen", port=port), ())

    async def close(self) -> None:
        """Ends the agent and with it all that it started."""
        self._reader.cancel()
        await _end(self._process)

    async def _ask(self, lane: str, kind: str, **what: Any) -> dict[str, Any]:
        if self._reader.done():
            raise NodeError("the connection is gone")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        request = {"id": number, "lane": lane, "kind": kind, "with": what}
        assert self._process.stdin is not None
        try:
            # Python 3.10 lets only one task wait for a stream to drain.
            async with self._writing:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                await self._process.stdin.drain()
            return await answer
        except OSError as error:
            raise NodeError(f"the connection broke off ({error})") from error
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        why = "the connection broke off"
        try:
            while line := await self._process.stdout.readline():
                reply = json.loads(line)
                waiting = self._waiting.get(reply["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except (ValueError, LookupError, TypeError, OSError) as error:
            why = f"it answers nonsense ({error})"
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(NodeError(why))


@contextlib.asynccontextmanager
async def opened(target: Target, limit: int) -> AsyncIterator[Node]:
    """A node's agent that serves `limit` lanes at once; ended on the way out. Raises NodeError."""
    source = Path(__file__).with_name("agent.py").read_text("ascii")
    process = await asyncio.create_subprocess_exec(
        *_command(target, f"import sys;exec(sys.stdin.read({len(source)}))"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_MOST_LINE,
    )
    said: deque[str] = deque(maxlen=5)
    complaints = asyncio.create_task(_listen(process.stderr, said))
    node: Node | None = None
    try:
        host = await _hello(process, source, limit, complaints, said)
        node = Node(target, process, host)
        yield node
    finally:
        if node is not None:
            await node.close()
        else:
            await _end(process)
        complaints.cancel()


async def _hello(
    process: asyncio.subprocess.Process,
    source: str,
    limit: int,
    complaints: asyncio.Task[None],
    said: deque[str],
) -> str:
    """Hands the agent its program; returns the node's own host name. Lines of a login shell before it are skipped."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(source.encode() + json.dumps({"limit": limit}).encode() + b"\n")
        await process.stdin.drain()
    except OSError:
        pass  # It has ended already; what it wrote to standard error, read below, says why.
    try:
        async with _timeout(_HELLO_SECONDS):
            while line := await process.stdout.readline():
                with contextlib.suppress(ValueError, TypeError, LookupError):
                    return str(json.loads(line)["host"])
            await process.wait()
            await complaints
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise NodeError(f"no answer within {_HELLO_SECONDS:.0f} s") from error
    except ValueError as error:
        raise NodeError("it answers nonsense") from error
    reason = " / ".join(said) or f"exit status {process.returncode}"
    raise NodeError(reason)


@contextlib.asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    """What asyncio.timeout is since Python 3.11."""
    task = asyncio.current_task()
    assert task is not None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        yield
    except asyncio.CancelledError as error:
        if expired:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


async def _listen(stream: asyncio.StreamReader | None, said: deque[str]) -> None:
    assert stream is not None
    with contextlib.suppress(ValueError):
        while line := await stream.readline():
            text = line.decode("utf-8", "replace").strip()
            if text:
                said.append(text)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Closes standard input, upon which the agent kills what it started; after a while the process itself is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _ENDING_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _command(target: Target, program: str) -> list[str]:
    if not target.destination:
        return [sys.executable, "-IS", "-c", program]
    options = [word for option in (*_SSH_OPTIONS, *target.ssh_options) for word in ("-o", option)]
    return ["ssh", *options, "--", target.destination, shlex.join(["python3", "-IS", "-c", program])]


def _outcome(reply: dict[str, Any], command: tuple[str, ...]) -> Outcome:
    return Outcome(str(reply.get("output", "")), reply.get("status"), str(reply.get("problem", "")), command)
