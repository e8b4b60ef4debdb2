"""What a running `pymotor up` tells the other verbs, and tells again where it could not be written."""

from __future__ import annotations

import os
import time
from typing import Any

from msgspec.structs import replace

from pymotor.local.plan import FleetPlan
from pymotor.local.processes import identify
from pymotor.local.request import UpRequest
from pymotor.local.state import FleetDirectory, FleetState, Phase


class ToldState:
    """The state of one fleet, in its directory."""

    def __init__(self, directory: FleetDirectory, first: FleetState) -> None:
        """Raises `OSError`."""
        self._directory = directory
        self._state = first
        self._is_written = False
        self.change()

    def change(self, **changes: Any) -> None:
        """These fields are so from now on. Raises `OSError` where that cannot be written; it is kept, for
        `write_again`."""
        self._state = replace(self._state, **changes)
        self._is_written = False
        self._directory.write_state(self._state)
        self._is_written = True

    def write_again(self) -> bool:
        """Whether what could not be written before has been now."""
        if self._is_written:
            return False
        try:
            self.change()
        except OSError:
            return False
        return True


def first_state(name: str, plan: FleetPlan, request: UpRequest) -> FleetState:
    """That of a fleet that this process begins to start."""
    ports = plan.ports
    return FleetState(
        name=name,
        phase=Phase.STARTING,
        supervisor=identify(os.getpid()),
        started_at=time.time(),
        url=ports.url(ports.inference),
        management_url=ports.url(ports.management),
        observability_url=ports.url(ports.observability),
        controller_url=ports.url(ports.controller),
        conductor_url=ports.url(ports.conductor) if ports.conductor is not None else "",
        models=plan.models,
        management_tls=ports.management_tls,
        observability_tls=ports.observability_tls,
        config=str(request.user_config_path),
        engine=request.engine,
    )
