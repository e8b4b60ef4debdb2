"""The fleet's stores of embeddings, kept small while it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from pymotor.config import UserConfig
from pymotor.ec_store import Collected, Limits, NotAStoreError, StoppedError, Store, collect
from pymotor.fleet import ECDialect
from pymotor.local.events import Event, Note
from pymotor.local.plan import FleetPlan

CONNECTOR = "ECExampleConnector"


class StoreCare:
    """Collects the stores from time to time; runs between entering and leaving, and never fails."""

    def __init__(self, stores: Sequence[Path], limits: Limits, interval: float, show: Callable[[Event], None]) -> None:
        """`interval`: seconds between the end of one collection and the next."""
        self._stores = tuple(stores)
        self._limits = limits
        self._interval = interval
        self._show = show
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._told: set[str] = set()

    @staticmethod
    def for_fleet(plan: FleetPlan, user: UserConfig, show: Callable[[Event], None]) -> StoreCare:
        """Of all stores in the plan, within the limits of the configuration.

        A request may use an item until `infer_timeout` after it came, and the gateway sends none to an encoder that
        it knows to be in the store for `reuse_seconds`. With `forward_media: never` nothing may ever be missing, so
        nothing is collected.
        """
        encode = user.motor_coordinator_config.encode_config
        exceptions = user.motor_coordinator_config.exception_config
        transfers = [instance.instance.ec for instance in plan.instances]
        stores = {
            transfer.store: None
            for transfer in transfers
            if transfer is not None
            and transfer.store
            and transfer.dialect is ECDialect.STORE
            and transfer.connector == CONNECTOR
        }
        kept_whole = encode.forward_media == "never"
        limits = Limits(
            older_than=encode.store_max_age or None,
            max_bytes=encode.store_max_bytes or None,
            window=float(exceptions.infer_timeout) + float(encode.reuse_seconds),
        )
        paths = [] if kept_whole else [Path(store) for store in stores]
        return StoreCare(paths, limits, float(encode.store_collect_interval), show)

    async def __aenter__(self) -> StoreCare:
        wanted = self._limits.older_than is not None or self._limits.max_bytes is not None
        if self._stores and wanted:
            self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Returns when nothing is collected any more."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            for path in self._stores:
                work = asyncio.ensure_future(asyncio.to_thread(self._collect, path))
                try:
                    self._tell(path, await asyncio.shield(work))
                except asyncio.CancelledError:
                    await asyncio.wait((work,))
                    raise

    def _collect(self, path: Path) -> Collected | str:
        """What was done, or why nothing could be; nothing where there is no store yet. Runs in a thread."""
        if not path.exists():
            return ""
        try:
            with Store(path, self._stopped.is_set) as store:
                return collect(store, self._limits)
        except StoppedError:
            return ""
        except (NotAStoreError, OSError) as error:
            return str(error)

    def _tell(self, path: Path, done: Collected | str) -> None:
        """Counts when something was removed; once, what stands in the way."""
        if isinstance(done, str):
            if done:
                self._warn(f"the store of embeddings is not collected: {done}")
            return
        if done.removed:
            self._show(
                Note(
                    f"store of embeddings {path}: removed items: {done.items} (corrupt: {done.corrupt}), temporary "
                    f"files: {done.leftovers}, bytes: {done.bytes}; left items: {done.items_left}, "
                    f"bytes: {done.bytes_left}"
                )
            )
        for failure in done.failures[:1]:
            self._warn(f"store of embeddings {path}: {failure}")
        if done.over_limit:
            self._warn(
                f"store of embeddings {path} is larger than encode_config.store_max_bytes, and requests may still use "
                "what is in it"
            )

    def _warn(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._show(Note(message, severity="warning"))
