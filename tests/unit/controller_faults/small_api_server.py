"""A small API server: lists and watches of two kinds of objects with resource versions, over real connections.

It can be told to break: drop its watches, forget old versions, answer errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

NODES = "/api/v1/nodes"
CONFIGMAPS = "/api/v1/namespaces/kube-system/configmaps"


class SmallAPIServer:
    """Knows objects by path and name."""

    def __init__(self) -> None:
        self.version = 10
        self.oldest = 0
        """Watches from before this version get 410."""
        self.gone_as_event = False
        """Whether that 410 is an event of a watch that began well."""
        self.page = 1000
        self.refusal: tuple[int, str] | None = None
        """Answers everything with this status and text."""
        self.raw: bytes | None = None
        """Sent to every watch in place of events."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Paths with queries, as they came."""
        self.tokens: list[str] = []
        self.url = ""
        self._objects: dict[str, dict[str, dict[str, Any]]] = {NODES: {}, CONFIGMAPS: {}}
        self._log: list[tuple[int, str, dict[str, Any]]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self._watching: dict[str, int] = {NODES: 0, CONFIGMAPS: 0}

    async def put(self, path: str, name: str, **content: Any) -> None:
        """Write an object, new or changed."""
        await self._change(path, name, "MODIFIED" if name in self._objects[path] else "ADDED", content)

    async def remove(self, path: str, name: str) -> None:
        """Delete an object."""
        await self._change(path, name, "DELETED", self._objects[path][name])

    async def _change(self, path: str, name: str, kind: str, content: dict[str, Any]) -> None:
        async with self._changed:
            self.version += 1
            item = {**content, "metadata": {"name": name, "resourceVersion": str(self.version)}}
            if kind == "DELETED":
                del self._objects[path][name]
            else:
                self._objects[path][name] = item
            self._log.append((self.version, path, {"type": kind, "object": item}))
            self._changed.notify_all()

    async def drop_connections(self) -> None:
        """Reset all connections."""
        async with self._changed:
            for writer in self._writers:
                writer.transport.abort()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until something that changes here is so."""
        async with self._changed:
            await self._changed.wait_for(condition)

    def watched(self) -> bool:
        """Whether both kinds are being watched."""
        return all(self._watching.values())

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[SmallAPIServer, None]:
        """Listen on loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            await self.drop_connections()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                target = urlsplit(head.split(" ")[1])
                query = {key: values[0] for key, values in parse_qs(target.query).items()}
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                async with self._changed:
                    self.requests.append((target.path, query))
                    self.tokens.append(fields.get("authorization", ""))
                    self._changed.notify_all()
                await self._answer(writer, target.path, query)
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, path: str, query: dict[str, str]) -> None:
        watch = query.get("watch") == "true"
        if self.refusal is not None:
            await self._send(writer, self.refusal[0], self.refusal[1])
        elif not watch:
            await self._send(writer, 200, json.dumps(self._list(path, query)))
        elif int(query["resourceVersion"]) < self.oldest and not self.gone_as_event:
            await self._send(writer, 410, "too old")
        else:
            await self._watch(writer, path, int(query["resourceVersion"]))

    def _list(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        items = list(self._objects[path].values())
        start = int(query.get("continue", 0))
        end = start + min(self.page, int(query["limit"]))
        metadata = {"resourceVersion": str(self.version), "continue": str(end) if end < len(items) else ""}
        return {"metadata": metadata, "items": items[start:end]}

    async def _send(self, writer: asyncio.StreamWriter, status: int, text: str) -> None:
        body = text.encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def _watch(self, writer: asyncio.StreamWriter, path: str, version: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if version < self.oldest:
            self._event(writer, {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
            writer.write(b"0\r\n\r\n")
            return
        if self.raw is not None:
            writer.write(f"{len(self.raw):x}\r\n".encode() + self.raw + b"\r\n0\r\n\r\n")
            return
        async with self._changed:
            self._watching[path] += 1
            self._changed.notify_all()
            try:
                while not writer.transport.is_closing():
                    for number, where, event in self._log:
                        if where == path and number > version:
                            self._event(writer, event)
                            version = number
                    await writer.drain()
                    with contextlib.suppress(asyncio.TimeoutError):
                        # A connection that was aborted tells nobody who waits for changes.
                        await asyncio.wait_for(self._changed.wait(), 0.05)
            finally:
                self._watching[path] -= 1
                self._changed.notify_all()
        raise ConnectionResetError

    def _event(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
