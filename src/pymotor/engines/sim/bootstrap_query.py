"""Asking a bootstrap server of the paired dialect where prefill hands its KV over."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import msgspec

from pymotor.engines.sim.frames import TransferError
from pymotor.engines.sim.handoffs import Meeting


async def find_worker(meeting: Meeting, timeout: float) -> tuple[str, int]:
    """Host and port of the prefill engine behind a bootstrap address. Raises `TransferError` when there is none."""
    path = "/query" if meeting.engine_id is not None else "/route"
    try:
        reply = msgspec.json.decode(await asyncio.wait_for(_get(meeting.bootstrap, path), timeout))
        if meeting.engine_id is None:
            return str(reply["rank_ip"]), int(reply["rank_port"])
        for entry in reply.values():
            if entry["engine_id"] == meeting.engine_id:
                address = urlsplit(entry["worker_addr"]["0"]["0"])
                return str(address.hostname), int(address.port or 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, asyncio.TimeoutError) as error:
        raise TransferError(f"bootstrap server {meeting.bootstrap}: {error or type(error).__name__}") from error
    raise TransferError(f"bootstrap server {meeting.bootstrap} does not know engine {meeting.engine_id}")


async def _get(address: str, path: str) -> bytes:
    """The body of a GET. Raises `ValueError` unless the status is 200."""
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {url.netloc}\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ValueError(f"answered {head[:40]!r}")
        return body
    finally:
        writer.close()
