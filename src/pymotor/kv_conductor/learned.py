"""What a publisher told, as far as it is applied: batches in their order, live ones and those that it replays."""

from __future__ import annotations

from collections.abc import Callable

from pymotor.kv_conductor.batch_order import BatchOrder
from pymotor.kv_conductor.begun_batch import BegunBatch
from pymotor.kv_conductor.instruments import Figures
from pymotor.kv_conductor.publisher_view import PublisherView
from pymotor.kv_conductor.replay import Taken


class Learned:
    """Of one publisher."""

    def __init__(self, view: PublisherView, rank: int | None, figures: Figures, forgotten: Callable[[], None]) -> None:
        """`rank`: what its batches name, if they name one; None: that is not known. `forgotten` is called when nothing
        counts that was known."""
        self.view = view
        self.order = BatchOrder()
        self.verified = False
        """Whether the newest batch that was applied was replayed as it was, or is too old for that."""
        self._begun = BegunBatch(rank)
        self._figures = figures
        self._forgotten = forgotten

    @property
    def amid_batch(self) -> bool:
        """Whether a batch is applied in part."""
        return self._begun.message is not None

    def apply(self, number: int, payload: bytes) -> bool:
        """Apply the next events of this batch; whether those were the last. Raises `EventFormatError`."""
        part = self._begun.next_part(number, payload)
        self.view.apply(part)
        self._figures.events.add(len(part.events))
        if self._begun.more():
            return False
        self.order.applied(number, payload)
        self._figures.batches.add()
        return True

    def forget(self) -> None:
        """Nothing is known any more."""
        self._begun.forget()
        known = self.order.last is not None or len(self.view) > 0
        self.order.forget()
        if known:
            # Before the view: else what is expected would hear of each block that is lost.
            self._forgotten()
        # Before the first batch, too: one that cannot be read may have told something up to there.
        self.view.clear()

    def forget_and_pass_over(self) -> None:
        """Likewise; if a batch is begun, what is learned next begins behind it: the engine would replay it each
        time."""
        unreadable = self._begun.message
        self.forget()
        if unreadable is not None:
            self.order.applied(*unreadable)

    # -- what is replayed

    def taking(self) -> Callable[[int, bytes], Taken]:
        """What takes a replay from the newest batch that was applied on, or from 0 where none was. It raises
        `EventFormatError`."""
        if self.order.last is None:
            return self._take
        self.verified = False
        return self._take_verified

    def _take_verified(self, number: int, payload: bytes) -> Taken:
        last = self.order.last
        if self.verified or last is None:
            return self._take(number, payload)
        if number > last:
            # The engine's buffer has it no more. All that it has comes now, and is what can be learned.
            self.verified = True
            self.forget()
            return self._take(number, payload)
        self.verified = self.order.is_last(number, payload)
        return Taken.ON if self.verified else Taken.DIFFERENT

    def _take(self, number: int, payload: bytes) -> Taken:
        last = self.order.last
        if last is not None and number > last + 1:
            return Taken.GAP
        if (last is None or number == last + 1) and not self.apply(number, payload):
            return Taken.PART
        return Taken.ON
