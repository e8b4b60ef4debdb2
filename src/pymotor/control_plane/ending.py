"""How a part hears that it is to end: by signals, and by the end of its parent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def end_requests(
    on_signal: Callable[[signal.Signals], None], on_parent_gone: Callable[[], None], parent_pipe: int | None
) -> Iterator[None]:
    """Within the block `on_signal` is called for each SIGTERM and SIGINT, and `on_parent_gone` once when `parent_pipe`,
    a descriptor to read from, reports end of file or cannot be read. To be entered inside the event loop."""
    loop = asyncio.get_running_loop()

    def read(descriptor: int) -> None:
        try:
            alive = bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return
        except OSError as error:
            logger.warning("the parent's pipe cannot be read: %s", error)
            alive = False
        if not alive:
            loop.remove_reader(descriptor)
            on_parent_gone()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    if parent_pipe is not None:
        os.set_blocking(parent_pipe, False)
        loop.add_reader(parent_pipe, read, parent_pipe)
    try:
        yield
    finally:
        if parent_pipe is not None:
            loop.remove_reader(parent_pipe)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
