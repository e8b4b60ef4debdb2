"""When a fleet is given up: nothing is left that could answer, and starting again does not help."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pymotor.engines import KeptServers
from pymotor.fleet import Role
from pymotor.local.controller_view import SeenFleet, SeenInstance
from pymotor.local.settling import Settling

RESTARTS_IN_VAIN = 3
"""After so many a fleet that cannot answer is given up."""


class GivingUp:
    """Decides it, once; made within a running event loop."""

    def __init__(self) -> None:
        self.indispensable: Sequence[KeptServers] = ()
        """Processes without which nothing is answered."""
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the fleet cannot go on."""
        self._settling = Settling()
        self._instances: tuple[SeenInstance, ...] = ()

    def note(self, seen: SeenFleet, now: float) -> None:
        """Take over what was seen at `now` (`monotonic()`)."""
        self._instances = seen.instances
        self._settling.note(seen, now)

    def goes_on(self) -> bool:
        """Decide by what is known now; whether the fleet is kept."""
        why = "" if self.reason.done() else self._in_vain()
        if why:
            self.reason.set_result(f"nothing is left that could answer, and starting again did not help; {why}")
        return not self.reason.done()

    def fail(self, error: BaseException) -> None:
        """Keeping something failed, which is nobody's plan."""
        if not self.reason.done():
            self.reason.set_exception(error)

    def _in_vain(self) -> str:
        """Which of those that cannot be done without is down after several starts, or nothing."""
        for kept in self.indispensable:
            if not kept.serving and kept.restarts >= RESTARTS_IN_VAIN:
                return f"the last one lost is {kept.processes[0].plan.name} ({kept.processes[0].end_in_words()})"
        answering = [one for one in self._instances if one.role is not Role.ENCODE]
        down = [one for one in answering if self._settling.restarts(one.name) >= RESTARTS_IN_VAIN]
        if not answering or len(down) < len(answering):
            return ""
        return f"the last one lost is {down[-1].name} ({down[-1].fault.partition(chr(10))[0]})"
