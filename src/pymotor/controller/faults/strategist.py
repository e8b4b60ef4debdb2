"""Looks at the fleet at intervals and at each change, asks the policies, and has the core do what they decide."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from pymotor.controller.alarms import FleetAlarms
from pymotor.controller.faults.cluster_watch import ClusterFaults
from pymotor.controller.faults.decisions import ChangeRoles, Decision, Recover, Separate
from pymotor.controller.faults.look import look_at
from pymotor.controller.faults.policies import decide, remember
from pymotor.controller.faults.view import FleetView, Memory, Switches
from pymotor.controller.leadership import NotLeadingError
from pymotor.controller.lease import LeaseError
from pymotor.controller.operations import OperationRefused, UnknownInstance
from pymotor.controller.service import ControllerService, Term
from pymotor.fleet import Role

logger = logging.getLogger(__name__)

_STANDBY_SECONDS = 1.0
"""Between two looks whether this Controller leads now."""
_SETTLE_SECONDS = 0.5
"""Changes come in swarms: between two looks there is at least so much."""


class Strategist:
    """One for each Controller process; it acts while the Controller leads."""

    def __init__(
        self,
        service: ControllerService,
        alarms: FleetAlarms,
        *,
        switches: Switches,
        wanted: Mapping[Role, int],
        faults: Callable[[], ClusterFaults],
        stands_by: bool,
    ) -> None:
        """`wanted`: instances by the configuration. `faults`: what is known of hardware. `stands_by`: whether another
        Controller may have led before, so that taking over is worth an event."""
        self._service = service
        self._alarms = alarms
        self._switches = switches
        self._wanted = wanted
        self._faults = faults
        self._stands_by = stands_by
        self._interval = 0.0
        self._term: Term | None = None
        self._memory = Memory()
        self._hardware: dict[str, str] = {}
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look soon: something has changed."""
        self._changed.set()

    def use(self, switches: Switches, wanted: Mapping[Role, int], interval: float) -> None:
        """Look by these from now on, at least every `interval` seconds; the next look is soon."""
        self._switches = switches
        self._wanted = wanted
        self._interval = interval
        self.wake()

    async def run(self, interval: float) -> None:
        """Look until cancelled, at least every `interval` seconds."""
        self._interval = interval
        while True:
            try:
                await self.look()
            except (NotLeadingError, LeaseError) as error:
                logger.info("no look at faults: %s", error)
            except Exception:  # a policy that fails must not take the Controller with it
                logger.exception("the look at faults failed; the next is in %g s", self._interval)
            await self._wait(self._interval)

    async def look(self) -> None:
        """Look once and act. Raises `NotLeadingError`, `LeaseError` when the lease is lost meanwhile."""
        if not self._service.leads:
            self._term = None
            return
        term = self._service.term()
        if term is not self._term:
            self._begin(term)
        view = self.view()
        self._alarms.look(view)
        self._tell_of_hardware(view)
        decisions = decide(view, self._memory)
        done = [decision for decision in decisions if self._carry_out(term, view, decision)]
        self._memory = remember(view, self._memory, done)
        refused = [one for one in decisions if isinstance(one, ChangeRoles) and one not in done]
        if refused:
            # Asked again after a pause, not at each look.
            self._memory = replace(self._memory, changed={Role.PREFILL: view.now, Role.DECODE: view.now})
        if done:
            await self._service.done(term)

    def view(self) -> FleetView:
        """The fleet as it stands. Raises `NotLeadingError`."""
        return look_at(
            self._service.term().state.book,
            self._service.now(),
            wanted=self._wanted,
            faults=self._faults(),
            switches=self._switches,
        )

    def _begin(self, term: Term) -> None:
        self._term, self._memory, self._hardware = term, Memory(), {}
        if self._stands_by and term.state.epoch > 1:
            self._alarms.took_over()

    def _carry_out(self, term: Term, view: FleetView, decision: Decision) -> bool:
        """Whether it could be done."""
        operations, now = term.operations, view.now
        try:
            if isinstance(decision, Separate):
                operations.separate(decision.instance, now, decision.why)
            elif isinstance(decision, Recover):
                operations.recover(decision.instance, now)
            elif isinstance(decision, ChangeRoles):
                self._service.history.add(now, "roles_change", decision.why)
                for instance in decision.instances:
                    if decision.by_switch:
                        operations.switch_role(instance, decision.gained, now, why=decision.why, borrowed=True)
                    else:
                        operations.remove(instance, now, why=decision.why)
            else:
                self._service.history.add(now, "noted", decision.why)
        except (OperationRefused, UnknownInstance) as error:
            self._service.history.add(now, "decision_refused", f"{decision.why}: {error}")
            logger.warning("%s, but: %s", decision.why, error)
            return False
        logger.warning("%s", decision.why)
        return True

    def _tell_of_hardware(self, view: FleetView) -> None:
        """Events for faults that come and go where there are nodes."""
        nodes = [*(node for one in view.instances for node in one.nodes), *view.spare_nodes]
        present = {
            f"{fault.machine} {fault.device} {fault.code:#x} {fault.level}": str(fault)
            for fault in view.faults
            if any(node.touched_by(fault) for node in nodes)
        }
        for key in present.keys() - self._hardware.keys():
            self._service.history.add(view.now, "hardware_fault", present[key])
        for key in self._hardware.keys() - present.keys():
            self._service.history.add(view.now, "hardware_fault_gone", self._hardware[key])
        self._hardware = present

    async def _wait(self, interval: float) -> None:
        """Until something changed, but not at once again."""
        if self._term is None:
            await asyncio.sleep(min(_STANDBY_SECONDS, interval))
            return
        await asyncio.sleep(min(_SETTLE_SECONDS, interval))
        watches = self._term.watches
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        woken = asyncio.ensure_future(self._changed.wait())
        watches.add(news)
        try:
            both: set[asyncio.Future[None] | asyncio.Task[bool]] = {news, woken}
            await asyncio.wait(both, timeout=interval, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watches.discard(news)
            news.cancel()
            woken.cancel()
        self._changed.clear()
