"""HTTP servers of control planes: FastAPI under uvicorn, on a socket and with signals that are the owner's."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI


class AdminServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner."""

    def __init__(self, app: FastAPI, *, graceful_seconds: int = 2) -> None:
        """`graceful_seconds`: how long running requests may take once it is to finish."""
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=graceful_seconds,
                ws="none",
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handler."""
        yield

    async def serve_on(self, listening: socket.socket) -> None:
        """Serve until `finish`; closes the socket."""
        await self.serve(sockets=[listening])

    def finish(self) -> None:
        """Stop accepting; `serve_on` returns when running requests are answered, or after `graceful_seconds`."""
        self.should_exit = True
