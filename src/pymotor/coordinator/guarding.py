"""What a worker needs for keys and limits, made of its settings."""

from __future__ import annotations

from pymotor.coordinator.control import WorkerStart
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.guard import Guard
from pymotor.coordinator.http.server import Handler
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.keys.api_key import ApiKey
from pymotor.coordinator.keys.key_ring import KeyRing
from pymotor.coordinator.limits.buckets import Buckets
from pymotor.coordinator.limits.meter import Meter
from pymotor.coordinator.limits.rate_limits import BUCKETS, RateLimits
from pymotor.coordinator.limits.usage import KeyUsage
from pymotor.coordinator.request_log import RequestLog
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.settings import Settings


def limits_behind(ledger_descriptor: int, start: WorkerStart) -> RateLimits | None:
    """A worker's view of the limits, which stand behind the ledger; None where there are none."""
    if start.settings.rates is None:
        return None
    offset = Ledger.end_of(start.columns, start.ledger_rows)
    buckets = Buckets(ledger_descriptor, offset, columns=start.columns, buckets=BUCKETS, column=start.column)
    return RateLimits(buckets, start.settings.rates)


class Guarding:
    """Keys and limits of one worker; without either there is no `meter` and `before` changes nothing."""

    def __init__(self, start: WorkerStart, limits: RateLimits | None, instruments: Instruments) -> None:
        self._settings = settings = start.settings
        self._instruments = instruments
        self._limits = limits
        self._ring = KeyRing(start.keys) if settings.keys is not None else None
        self._usage = KeyUsage(instruments.registry) if settings.keys is not None else None
        self.meter: Meter | None = None
        """Counts what requests cost."""
        if self._ring is not None or limits is not None:
            self.meter = Meter(limits, self._usage, instruments)

    @property
    def once(self) -> frozenset[bytes]:
        """Names of headers with a key, which a request has once."""
        keys = self._settings.keys
        return frozenset((keys.header_name.lower().encode(),)) if keys is not None else frozenset()

    def use(self, settings: Settings) -> None:
        """These limits hold from now on, where there were some at the start."""
        if self._limits is not None and settings.rates is not None:
            self._limits.use(settings.rates)

    def before(self, handle: Handler, heads: ResponseHeads, request_log: RequestLog | None = None) -> Handler:
        """What handles requests in place of `handle`."""
        if self.meter is None:
            return handle
        rates = self._settings.rates
        return Guard(
            handle,
            heads,
            self._instruments,
            keys=self._settings.keys,
            ring=self._ring,
            usage=self._usage,
            limits=self._limits,
            unlimited=rates.skip_paths if rates is not None else (),
            request_log=request_log,
        ).handle

    def set_keys(self, keys: tuple[ApiKey, ...]) -> None:
        """These are good from now on."""
        if self._ring is not None:
            self._ring.replace(keys)

    def close(self) -> None:
        """Look at no key any more."""
        if self._ring is not None:
            self._ring.close()
