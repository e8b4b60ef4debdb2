"""What the supervisor answers the dashboard's page: the fleet, the last quarter of an hour, requests that are over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from time import monotonic

import msgspec

from pymotor.coordinator.admin import Overview
from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.control import FinishedQuestion
from pymotor.coordinator.dashboard.engine_watch import EngineWatch
from pymotor.coordinator.dashboard.fleet_picture import FleetPicture, instance_pictures
from pymotor.coordinator.dashboard.series import INTERVAL, NAMES, Point, Series
from pymotor.coordinator.dashboard.timeline import FinishedRequest
from pymotor.coordinator.engine_scrapes import EngineScrapes
from pymotor.coordinator.known_fleet import KnownFleet
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.waiting_line import total_waiting
from pymotor.coordinator.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

WORKER_DEADLINE = 5.0
"""Seconds that workers have to tell of their requests."""
_PART = 50
"""Making points takes at most one part in so many of the supervisor's time."""
_ID = re.compile(r"[0-9]{1,5}-[0-9a-f]{8}-[0-9]{1,18}")
_finished_decoder = msgspec.json.Decoder(list[FinishedRequest])


class FinishedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /dashboard/requests`."""

    newest: float
    """When the last of them ended, seconds since 1970; what was asked for where there is none."""
    requests: list[FinishedRequest]
    """The newest first."""


class SeriesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `GET /dashboard/series`."""

    interval: float
    """Seconds between two points; more where making one takes long."""
    points: list[Point]


class Board:
    """Kept by the supervisor; use `keeping_board`."""

    def __init__(self, overview: Overview, pool: WorkerPool, fleet: KnownFleet, ledger: Ledger, watch: EngineWatch):
        self._overview = overview
        self._pool = pool
        self._fleet = fleet
        self._ledger = ledger
        self._watch = watch
        self._series = Series()

    def fleet(self) -> bytes:
        """The fleet as JSON; engines are asked for their own figures from now on for a while."""
        self._watch.look()
        report = self._overview.fleet()
        newest = self._series.newest
        picture = FleetPicture(
            time=round(time.time(), 3),
            ready=report.ready,
            models=report.models,
            missing=report.missing,
            degraded=report.degraded,
            workers=report.workers,
            workers_listening=report.workers_listening,
            connected=None if report.fleet_source is None else report.fleet_source.connected,
            in_flight=report.in_flight,
            load_tokens=report.load_tokens,
            queued=total_waiting(self._ledger),
            requests_per_second=newest.requests_per_second if newest else 0.0,
            failed_per_second=newest.failed_per_second if newest else 0.0,
            first_token_p50=newest.first_token_p50 if newest else None,
            first_token_p95=newest.first_token_p95 if newest else None,
            tokens_per_second=self._watch.tokens_per_second,
            instances=instance_pictures(report, self._watch.said),
        )
        return msgspec.json.encode(picture)

    def series(self, after: float) -> bytes:
        """The points after `after`, seconds since 1970, as JSON."""
        return msgspec.json.encode(SeriesAnswer(interval=INTERVAL, points=self._series.newer(after)))

    async def requests(self, after: float) -> bytes:
        """The requests of all workers that ended after `after` and that are kept, as JSON."""
        replies = await self._pool.explain(FinishedQuestion(number=0, after=after), WORKER_DEADLINE)
        lists = [_finished_decoder.decode(reply.body) for reply in replies.values() if reply.status == 200]
        found = sorted((one for some in lists for one in some), key=lambda one: one.ended, reverse=True)
        return msgspec.json.encode(FinishedAnswer(newest=found[0].ended if found else after, requests=found))

    async def request(self, finished_id: str) -> tuple[int, bytes]:
        """Status and JSON: all there is to tell of one request."""
        if _ID.fullmatch(finished_id):
            replies = await self._pool.explain(FinishedQuestion(number=0, id=finished_id), WORKER_DEADLINE)
            for reply in replies.values():
                if reply.status == 200:
                    return 200, reply.body
        return 404, ApiError(404, "this request is not kept any more; newer ones are in the list").body()

    async def run(self) -> None:
        """Make points until it is cancelled."""
        while True:
            began = monotonic()
            in_flight = sum(
                self._ledger.in_flight(self._fleet.row(endpoint))
                for instance in self._fleet.instances
                for endpoint in instance.endpoints
            )
            self._series.take(
                self._pool.metrics(NAMES),
                began,
                time.time(),
                queued=total_waiting(self._ledger),
                in_flight=in_flight,
                tokens=self._watch.tokens_per_second,
            )
            await asyncio.sleep(max(INTERVAL, (monotonic() - began) * _PART))


@contextlib.asynccontextmanager
async def keeping_board(
    overview: Overview, pool: WorkerPool, fleet: KnownFleet, ledger: Ledger, engines: EngineScrapes
) -> AsyncIterator[Board]:
    """There is a dashboard to ask as long as the block runs."""
    watch = EngineWatch(fleet, engines)
    board = Board(overview, pool, fleet, ledger, watch)
    tasks = [asyncio.create_task(board.run()), asyncio.create_task(watch.run())]
    for task in tasks:
        task.add_done_callback(_tell)
    try:
        yield board
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("the dashboard's figures are not renewed any more", exc_info=task.exception())
