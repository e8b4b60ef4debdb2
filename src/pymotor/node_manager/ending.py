"""How a NodeManager learns that it is to end."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AbstractContextManager

from pymotor.control_plane.ending import end_requests

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

    def listening(self, parent_pipe: int | None) -> AbstractContextManager[None]:
        """Hear SIGTERM and SIGINT, and the end of the parent at the other end of a pipe, within the block."""
        return end_requests(self._on_signal, self._on_parent_gone, parent_pipe)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.leave.is_set():
            logger.warning("%s again: the engines are ended at once", number.name)
            self.stop.set()
            self.hurry.set()
        else:
            logger.info("%s: the NodeManager ends when its instance is drained", number.name)
            self.leave.set()

    def _on_parent_gone(self) -> None:
        logger.info("the parent is gone: the engines are ended")
        self.leave.set()
        self.stop.set()
