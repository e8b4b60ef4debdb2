"""The fleet as the conductor learns of it: from a Controller, as Coordinators do, or from a file.

The conductor sends no requests to engines, so its questions have no name and no drain waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from time import monotonic

import httpx
import msgspec

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.inquiry import ControllerInquiry, NotToldError
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.watched_file import WatchedFile
from pymotor.fleet import FleetSnapshot, FleetWatch, decode_snapshot, encode_message
from pymotor.fleet.reports import refusal_in

WAIT_SECONDS = 5.0
"""How long a Controller may hold its answer back while there is nothing newer."""
_FILE_SECONDS = 0.15
"""Between two looks at the file."""


class ControllerWatch:
    """Asks the Controllers of a list, of which one is the leader."""

    def __init__(self, urls: Sequence[str], token: ClusterToken | None, tls: ClientTLS | None = None) -> None:
        """`urls` as of `controller_urls`; `tls`: None for plain HTTP."""
        self._inquiry = ControllerInquiry(urls, token, "KV Conductor", refusal_in, tls)
        self._age = (-1, -1)

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """Each newer snapshot, whole. Never ends."""
        async with self._inquiry.client(WAIT_SECONDS) as client:
            while True:
                began = monotonic()
                try:
                    snapshot = await self._ask(client)
                except NotToldError as error:
                    pause = self._inquiry.refused(error)
                    if pause:
                        await asyncio.sleep(pause)
                    continue
                self._inquiry.heard()
                if snapshot is None or (snapshot.epoch, snapshot.version) == self._age:
                    # A Controller that does not wait is not asked again and again for it.
                    await asyncio.sleep(max(0.0, WAIT_SECONDS / 2 - (monotonic() - began)))
                    continue
                self._age = (snapshot.epoch, snapshot.version)
                yield snapshot

    async def _ask(self, client: httpx.AsyncClient) -> FleetSnapshot | None:
        epoch, version = self._age
        question = FleetWatch(coordinator="", epoch=epoch, version=version, wait_seconds=WAIT_SECONDS)
        body = await self._inquiry.ask(client, "/fleet/watch", encode_message(question), WAIT_SECONDS)
        if body is None:
            return None
        try:
            snapshot = decode_snapshot(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotToldError("answers with something that is no snapshot") from error
        if snapshot.epoch < epoch:
            raise NotToldError(
                f"tells of epoch {snapshot.epoch}, but a leader of epoch {epoch} was heard: it leads no more"
            )
        return snapshot


class FileWatch:
    """Reads snapshots from a file whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, _decode_file, "fleet file", "snapshot", "fleet")

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """The snapshot in the file, again after each change. Never ends."""
        while True:
            snapshot = self._file.read_if_changed()
            if snapshot is not None:
                yield snapshot
            await asyncio.sleep(_FILE_SECONDS)


def _decode_file(data: bytes) -> FleetSnapshot:
    """Raises `msgspec.DecodeError`."""
    snapshot = decode_snapshot(data)
    # Unknown keys may be those of a newer writer, and known ones have defaults: any object would be an empty fleet.
    if "instances" not in msgspec.json.decode(data, type=dict[str, msgspec.Raw]):
        raise msgspec.ValidationError("Object missing required field `instances`")
    return snapshot


class NoFleet:
    """Nobody tells: publishers are registered."""

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """Nothing. Never ends."""
        await asyncio.Event().wait()
        yield FleetSnapshot()


FleetTeller = ControllerWatch | FileWatch | NoFleet
