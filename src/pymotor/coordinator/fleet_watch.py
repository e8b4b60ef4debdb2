"""The fleet as a Controller tells it: the supervisor asks for the next snapshot and waits for it.

Each question says which snapshot the workers route by, and what is under way at instances that are draining in it:
the Controller ends those when every Coordinator says that nothing is. docs/fleet.md has the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from time import monotonic

import httpx
import msgspec

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.inquiry import ControllerInquiry, NotToldError
from pymotor.control_plane.tls import ClientTLS
from pymotor.coordinator.fleet_source import FleetSource, Progress, SourceState
from pymotor.fleet import FleetSnapshot, decode_snapshot
from pymotor.fleet.reports import FleetWatch, encode_message, refusal_in

WAIT_SECONDS = 5.0
"""How long a Controller may hold its answer back while there is nothing newer."""
DRAINING_SECONDS = 0.4
"""Likewise while an instance is draining, so that it is told soon when nothing is under way there any more."""
_TAKING_SECONDS = 0.5
"""How long the workers have to take a snapshot over before the next question says that they have not."""


class ControllerFleetSource(FleetSource):
    """Asks the Controllers of a list, of which one is the leader."""

    def __init__(
        self, urls: Sequence[str], token: ClusterToken | None, coordinator: str, tls: ClientTLS | None = None
    ) -> None:
        """`urls` as of `controller_urls`; `coordinator` names this start of this Coordinator and no other; `tls`: None
        for plain HTTP."""
        self._inquiry = ControllerInquiry(urls, token, "Coordinator", refusal_in, tls)
        self._coordinator = coordinator
        self._progress: Progress | None = None
        self._epoch = -1
        self._last: FleetSnapshot | None = None

    @property
    def state(self) -> SourceState:
        """Who is asked, and since when nothing was heard."""
        asked = self._inquiry
        return SourceState(connected=asked.connected, url=asked.url, last_heard_seconds=asked.last_heard_seconds)

    def follow(self, progress: Progress) -> None:
        """What the questions say of this Coordinator comes from `progress`."""
        self._progress = progress

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """Each snapshot that differs from the one before; see `FleetSource`."""
        async with self._inquiry.client(WAIT_SECONDS) as client:
            while True:
                began = monotonic()
                question = self._question()
                try:
                    snapshot = await self._ask(client, question)
                except NotToldError as error:
                    pause = self._inquiry.refused(error)
                    if pause:
                        await asyncio.sleep(pause)
                    continue
                self._inquiry.heard()
                if snapshot is None or snapshot == self._last:
                    # A Controller that does not wait is not asked again and again for it.
                    await self._settle(question.wait_seconds / 2 - (monotonic() - began))
                    continue
                self._last = snapshot
                self._epoch = snapshot.epoch
                yield snapshot
                await self._settle(_TAKING_SECONDS, at_most=True)

    async def _settle(self, seconds: float, *, at_most: bool = False) -> None:
        """Let `seconds` pass before the next question; where the workers have not taken the last snapshot over yet,
        `at_most` that long, until they have."""
        progress, last = self._progress, self._last
        age = None if last is None else (last.epoch, last.version)
        if progress is not None and age is not None and (progress.age is None or progress.age < age):
            await progress.reached(age, max(_TAKING_SECONDS, seconds))
        elif not at_most:
            await asyncio.sleep(max(0.0, seconds))

    # -- one question

    def _question(self) -> FleetWatch:
        progress = self._progress
        age = None if progress is None else progress.age
        if progress is None or age is None:
            return FleetWatch(coordinator=self._coordinator, wait_seconds=WAIT_SECONDS)
        return FleetWatch(
            coordinator=self._coordinator,
            epoch=age[0],
            version=age[1],
            in_flight=progress.in_flight(),
            wait_seconds=DRAINING_SECONDS if progress.draining else WAIT_SECONDS,
        )

    async def _ask(self, client: httpx.AsyncClient, question: FleetWatch) -> FleetSnapshot | None:
        """The answer; None: nothing newer. Raises `NotToldError`."""
        body = await self._inquiry.ask(client, "/fleet/watch", encode_message(question), question.wait_seconds)
        if body is None:
            return None
        try:
            snapshot = decode_snapshot(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotToldError("answers with something that is no snapshot") from error
        if snapshot.epoch < self._epoch:
            raise NotToldError(
                f"tells of epoch {snapshot.epoch}, but a leader of epoch {self._epoch} was heard: it leads no more"
            )
        return snapshot
