"""Processes that `pymotor up` starts itself: kept running, shown as they change, and known by their pids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pymotor.engines import EngineProcess, KeptServers, ServerPlan
from pymotor.fleet import EndpointState
from pymotor.local.events import Event, Note, ProcessState
from pymotor.local.plan import NODE_GRACE
from pymotor.local.processes import ProcessIdentity, identify
from pymotor.local.seen_servers import Tell


class OwnProcesses:
    """Makes them, and hears of each what `KeptServers` has to say."""

    def __init__(
        self,
        log_file: Callable[[str], Path],
        start_deadline: float,
        tell: Tell,
        show: Callable[[Event], None],
        *,
        changed: Callable[[], None],
        goes_on: Callable[[], bool],
    ) -> None:
        """`changed` is called when `identities` are others; `goes_on`, when a process was lost, says whether it is
        worth starting again."""
        self._log_file = log_file
        self._start_deadline = start_deadline
        self._tell = tell
        self._show = show
        self._changed = changed
        self._goes_on = goes_on
        self.identities: dict[str, ProcessIdentity] = {}
        """By name, of what was started and is not done with."""

    def kept(self, server: ServerPlan, grace: float) -> KeptServers:
        """The Controller or the Coordinator."""
        return KeptServers([server], self._log_file, self._start_deadline, self._note, grace)

    def kept_node(self, server: ServerPlan) -> KeptServers:
        """A NodeManager, of which only what goes wrong is shown: its engines are what people wait for."""
        return KeptServers(
            [server], self._log_file, self._start_deadline, self._note_node, NODE_GRACE, finished=_was_released
        )

    async def stop(self, kept: KeptServers, grace: float) -> None:
        """End it for good."""
        ran = [process.plan.name for process in kept.processes if process.running]
        await kept.stop(grace)
        for name in ran:
            self._tell(name, ProcessState.STOPPED, "")

    def forget(self, name: str) -> None:
        """It will not be started again."""
        if self.identities.pop(name, None) is not None:
            self._changed()

    def _note(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        if state is EndpointState.STARTING:
            self._identify(process)
            self._tell(process.plan.name, ProcessState.STARTING, "")
        elif state is EndpointState.READY:
            self._tell(process.plan.name, ProcessState.READY, process.plan.endpoint.url)
        else:
            self._note_gone(process, detail)

    def _note_node(self, process: EngineProcess, state: EndpointState, detail: str) -> None:
        if state is EndpointState.STARTING:
            self._identify(process)
        elif state is not EndpointState.READY and _was_released(process):
            self._show(Note(f"{process.plan.name} has ended: it is not needed any more"))
        elif state is not EndpointState.READY:
            self._note_gone(process, detail)

    def _identify(self, process: EngineProcess) -> None:
        if process.process_id is not None:
            self.identities[process.plan.name] = identify(process.process_id)
            self._changed()

    def _note_gone(self, process: EngineProcess, words: str) -> None:
        name, first_line = process.plan.name, words.partition("\n")[0]
        self._tell(name, ProcessState.EXITED, first_line)
        # What failed to start has been quoted already.
        said = words if "\n" in words or words.startswith(name) else f"{name} ended ({words}){quote(process)}"
        self._show(Note(said, severity="warning"))
        if self._goes_on():
            self._show(Note(f"{name} starts again"))


def quote(process: EngineProcess) -> str:
    """The last lines of its log, to be added to a sentence; empty where it has written nothing."""
    lines = process.last_log_lines()
    if not lines:
        return ""
    return "\n".join([f"; the last lines of {process.log_path}:", *(f"    {line}" for line in lines)])


def _was_released(process: EngineProcess) -> bool:
    """A NodeManager ends by itself, and well, only when nothing is wanted of it any more."""
    return process.exit_status == 0
