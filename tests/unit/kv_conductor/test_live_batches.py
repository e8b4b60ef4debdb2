"""What waits of a publisher's live batches, and that it is read on however they are done with."""

from __future__ import annotations

from pymotor.kv_conductor.live_batches import MOST_BYTES, LiveBatches

HALF = bytes(MOST_BYTES // 2 + 1)


class Connection:
    """Knows whether it is read."""

    read = True

    def pause(self) -> None:
        self.read = False

    def resume(self) -> None:
        self.read = True


def full() -> tuple[LiveBatches, Connection]:
    batches, connection = LiveBatches(), Connection()
    batches.begin(connection)
    for number in (5, 6, 7):
        batches.put(number, HALF)
    assert not connection.read
    return batches, connection


def test_reading_goes_on_when_few_wait() -> None:
    batches, connection = full()
    batches.take_off()
    batches.take_off()
    assert not connection.read
    batches.take_off()
    assert connection.read
    assert not batches


def test_reading_goes_on_when_a_replay_had_all_of_them() -> None:
    batches, connection = full()
    batches.drop_until(7)
    assert not batches
    assert connection.read


def test_of_numbers_that_begin_again_none_came_by_a_replay() -> None:
    batches = LiveBatches()
    batches.begin(Connection())
    for number in (6, 7, 0):
        batches.put(number, b"")
    batches.drop_until(None)
    assert batches.first[0] == 6
    batches.drop_until(7)
    assert batches.first[0] == 0
