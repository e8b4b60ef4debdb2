"""How a NodeManager learns that it is to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator

logger = logging.getLogger(__name__)


class EndRequests:
    """What was asked for so far."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()
        """Let the Controller drain the instance, then end."""
        self.stop = asyncio.Event()
        """End without waiting for the Controller; servers get their time."""
        self.hurry = asyncio.Event()
        """Nothing gets any more time."""

    @contextlib.contextmanager
    def listening(self, parent_pipe: int | None) -> Iterator[None]:
        """Hear SIGTERM and SIGINT, and the end of the parent at the other end of a pipe, within the block."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        if parent_pipe is not None:
            os.set_blocking(parent_pipe, False)
            loop.add_reader(parent_pipe, self._on_parent, parent_pipe)
        try:
            yield
        finally:
            if parent_pipe is not None:
                loop.remove_reader(parent_pipe)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.leave.is_set():
            logger.warning("%s again: the engines are ended at once", number.name)
            self.stop.set()
            self.hurry.set()
        else:
            logger.info("%s: the NodeManager ends when its instance is drained", number.name)
            self.leave.set()

    def _on_parent(self, descriptor: int) -> None:
        try:
            alive = bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return
        except OSError as error:
            logger.warning("the parent's pipe cannot be read: %s", error)
            alive = False
        if not alive:
            asyncio.get_running_loop().remove_reader(descriptor)
            logger.info("the parent is gone: the engines are ended")
            self.leave.set()
            self.stop.set()
