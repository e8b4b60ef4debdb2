"""Who leads: takes a lease, renews it, and knows at each moment whether it still holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping

from msgspec.structs import replace

from pymotor.controller.lease import Lease, LeaseError, LeaseRecord

logger = logging.getLogger(__name__)


def uptime() -> float:
    """Seconds that go on while this process is stopped, and while the machine sleeps where the system counts that."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class NotLeadingError(Exception):
    """This Controller may not answer: it is not the leader, or cannot be sure any more."""

    def __init__(self, leader: str) -> None:
        """`leader`: the URL of who leads; empty where that is not known."""
        super().__init__("this Controller does not lead")
        self.leader = leader


class Leadership:
    """One Controller's view of the lease.

    A holder's renewal counts from before it was asked for, others' waiting from when they saw it: so the one has
    stopped to answer before the other begins, whatever their clocks say.
    """

    def __init__(
        self, lease: Lease, holder: str, url: str, duration: float, clock: Callable[[], float] = uptime
    ) -> None:
        """`holder`: new with each run. `duration`: seconds that a renewal holds."""
        self._lease = lease
        self._holder = holder
        self._url = url
        self._duration = duration
        self._clock = clock
        self._lock = asyncio.Lock()
        self._held: LeaseRecord | None = None
        self._version = ""
        self._until = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        self._other = ""
        self._least_epoch = 0

    @property
    def url(self) -> str:
        """Where this Controller answers."""
        return self._url

    @property
    def leads(self) -> bool:
        """Whether this Controller is the leader at this moment."""
        return self._held is not None and self._clock() < self._until

    @property
    def epoch(self) -> int:
        """Of the lease that is held. Raises `NotLeadingError`."""
        self.check()
        assert self._held is not None
        return self._held.epoch

    @property
    def numbers(self) -> Mapping[str, int]:
        """As they are kept."""
        return self._held.numbers if self._held is not None else {}

    @property
    def other(self) -> str:
        """The URL of another Controller that leads; empty: none is known."""
        return "" if self.leads else self._other

    def check(self) -> None:
        """Raises `NotLeadingError` unless this Controller is the leader at this moment."""
        if not self.leads:
            raise NotLeadingError(self._other)

    async def try_to_lead(self) -> bool:
        """Take the lease if nobody holds it; whether it is held now. Raises `LeaseError`."""
        async with self._lock:
            asked = self._clock()
            record, version = await self._lease.read()
            if record is not None and not self._is_free(record, version, asked):
                self._other = record.url
                return False
            last = record or LeaseRecord()
            wanted = self._lease.identify(
                replace(
                    last,
                    holder=self._holder,
                    epoch=max(last.epoch, self._least_epoch) + 1,
                    duration=self._duration,
                    renewals=f"{self._holder} 0",
                    url=self._url,
                )
            )
            asked = self._clock()
            written = await self._lease.swap(wanted, version)
            if written is None:
                return False
            self._held, self._version, self._until = wanted, written, asked + self._duration
            logger.info("leads with epoch %d", wanted.epoch)
            return True

    def _is_free(self, record: LeaseRecord, version: str, now: float) -> bool:
        if not record.holder or record.holder == self._holder or self._lease.holder_is_dead(record):
            return True
        if version != self._seen[0]:
            self._seen = (version, now)
            return False
        return now - self._seen[1] >= record.duration

    async def keep_numbers(self, numbers: Mapping[str, int]) -> None:
        """Return when these numbers are kept. Raises as `renew`."""
        if self.numbers != numbers:
            await self.renew(numbers)

    async def renew(self, numbers: Mapping[str, int] | None = None) -> None:
        """Hold the lease for another `duration`, with these numbers kept beside it.

        Raises `NotLeadingError` when somebody else has it, `LeaseError` when it cannot be reached: it holds until its
        time is over.
        """
        async with self._lock:
            self.check()
            assert self._held is not None
            if numbers is not None and numbers == self._held.numbers:
                return  # kept meanwhile
            asked = self._clock()
            wanted = replace(
                self._held,
                renewals=f"{self._holder} {asked:.6f}",
                numbers=dict(self._held.numbers if numbers is None else numbers),
            )
            written = await self._lease.swap(wanted, self._version)
            if written is None:
                # Also when our own last write was made though its answer was lost: then it is ours to go on with.
                record, version = await self._lease.read()
                if record is None or (record.holder, record.epoch) != (self._holder, self._held.epoch):
                    self._lose(record)
                    raise NotLeadingError(self._other)
                written = await self._lease.swap(wanted, version)
                if written is None:
                    raise LeaseError("the lease changes all the time")
            self._held, self._version, self._until = wanted, written, asked + self._duration

    def resign(self, epoch: int) -> None:
        """Stop to lead at once, since a leader of that epoch was heard of; whenever this one leads again, its epoch is
        greater."""
        self._least_epoch = max(self._least_epoch, epoch)
        self._lose(None)

    def _lose(self, record: LeaseRecord | None) -> None:
        self._held, self._until = None, 0.0
        self._other = record.url if record is not None else ""

    async def hand_back(self) -> None:
        """Let another one lead at once."""
        async with self._lock:
            held, self._held, self._until = self._held, None, 0.0
            if held is not None:
                with contextlib.suppress(LeaseError):
                    await self._lease.swap(replace(held, holder="", pid=0), self._version)

    async def terms(self, retry: float) -> AsyncIterator[int]:
        """Yields the epoch each time this Controller becomes leader; whoever iterates goes on when it has ceased to be.

        `retry`: seconds between tries."""
        said = ""
        while True:
            try:
                leads = await self.try_to_lead()
                said = ""
            except LeaseError as error:
                if str(error) != said:  # tried several times a second: once is enough
                    logger.warning("%s", said := str(error))
                leads = False
            if leads and self._held is not None:
                yield self._held.epoch
            else:
                await asyncio.sleep(retry)

    async def keep(self) -> None:
        """Renew every third of the duration; returns when the lease is lost."""
        while self.leads:
            await asyncio.sleep(self._duration / 3)
            try:
                await self.renew()
            except NotLeadingError:
                break
            except LeaseError as error:
                logger.warning("%s", error)
        if not self.leads:
            self._held = None
