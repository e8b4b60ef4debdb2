"""A Controller with its port, as one of two behind a Service: it leads or stands by as the test says."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from pymotor.control_plane import AdminServer, ClusterToken
from pymotor.control_plane.plane import PlaneTLS
from pymotor.controller.file_lease import FileLease
from pymotor.controller.leadership import Leadership
from pymotor.controller.messages_app import controller_app
from pymotor.controller.passing_on import LeaderTLS
from pymotor.controller.service import ControllerService
from pymotor.controller.settings import ControllerSettings

TOKEN = "a-token-for-these-tests-only"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class ServedController:
    """It serves from the moment it is made, inside a running loop; `end` it."""

    def __init__(
        self, lease: Path, name: str, host: str = "127.0.0.1", *, plane: PlaneTLS | None = None, leader_name: str = ""
    ) -> None:
        """`lease` is the directory of the one that both want. With `plane` it speaks TLS, and believes a leader whose
        certificate names `leader_name`."""
        self.listening = socket.create_server((host, 0))
        scheme = "http" if plane is None else "https"
        self.url = f"{scheme}://{host}:{self.listening.getsockname()[1]}"
        self.leadership = Leadership(FileLease(lease), name, self.url, 60.0)
        self.service = ControllerService(self.leadership, ControllerSettings())
        leader_tls = LeaderTLS(plane.client(), leader_name) if plane is not None else None
        app = controller_app(self.service, ClusterToken(TOKEN), passes_on=True, leader_tls=leader_tls)
        self.server = AdminServer(app, graceful_seconds=1, tls=plane.server() if plane is not None else None)
        self.serving = asyncio.create_task(self.server.serve_on(self.listening))
        self.leading: asyncio.Task[None] | None = None

    async def lead(self) -> None:
        """Take the lease, which must be free, and lead."""
        assert await self.leadership.try_to_lead()
        self.leading = asyncio.create_task(self.service.lead(self.leadership.epoch))

    async def end(self) -> None:
        """Lead no more and close the port."""
        if self.leading is not None:
            self.leading.cancel()
            await asyncio.wait({self.leading})
            self.leading = None
        self.server.finish()
        await self.serving
