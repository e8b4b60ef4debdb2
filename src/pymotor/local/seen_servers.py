"""Engine servers as `pymotor up` shows them: each change once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pymotor.fleet import EndpointState
from pymotor.local.controller_view import SeenFleet, SeenServer
from pymotor.local.events import Event, Note, ProcessState
from pymotor.local.log_tail import last_lines
from pymotor.local.processes import ProcessIdentity, identify

_SHOWN = {
    EndpointState.STARTING: ProcessState.STARTING,
    EndpointState.READY: ProcessState.READY,
    EndpointState.UNHEALTHY: ProcessState.UNHEALTHY,
    EndpointState.GONE: ProcessState.EXITED,
}

_QUOTED_LINES = 20

Tell = Callable[[str, ProcessState, str], None]


class SeenServers:
    """The servers of the last look, and what is new about those of the next."""

    def __init__(self, tell: Tell, show: Callable[[Event], None], log_file: Callable[[str], Path]) -> None:
        """`tell(name, state, detail)` is called for each change; `show` with a note that quotes the log of a server
        that ended, `log_file` by its name."""
        self._tell = tell
        self._show_event = show
        self._log_file = log_file
        self._known: dict[str, SeenServer] = {}
        self.identities: dict[str, ProcessIdentity] = {}
        """Of the servers that run, by name."""

    def note(self, seen: SeenFleet) -> bool:
        """Take over what was seen; returns whether processes are others than before."""
        servers = {server.name: server for server in seen.servers}
        for name, server in servers.items():
            former = self._known.get(name)
            if former is None or (former.state, former.restarts) != (server.state, server.restarts):
                self._show(former, server, seen)
        for name in self._known.keys() - servers.keys():
            if self._known[name].state is not EndpointState.GONE:
                self._tell(name, ProcessState.STOPPED, "")
        self._known = servers
        return self._identify()

    def all_stopped(self) -> None:
        """Nothing of them is left."""
        for name, server in self._known.items():
            if server.state is not EndpointState.GONE:
                self._tell(name, ProcessState.STOPPED, "")
        self._known = {}

    def _show(self, former: SeenServer | None, server: SeenServer, seen: SeenFleet) -> None:
        restarted = former is not None and server.restarts > former.restarts
        gone = EndpointState.GONE
        if restarted and former is not None and gone not in (former.state, server.state):
            # It ended between two looks.
            self._tell_gone(server)
        if server.state is gone:
            self._tell_gone(server)
            return
        detail = (
            seen.url_of(server.endpoint_id) if server.state is EndpointState.READY else server.detail.partition("\n")[0]
        )
        self._tell(server.name, _SHOWN[server.state], detail)

    def _tell_gone(self, server: SeenServer) -> None:
        first_line = server.detail.partition("\n")[0]
        self._tell(server.name, ProcessState.EXITED, first_line)
        # What failed to start has been quoted already.
        quoted = "\n" in server.detail or first_line.startswith(server.name)
        said = server.detail if quoted else f"{server.name} ended ({first_line}){self._quote(server.name)}"
        self._show_event(Note(said, severity="warning"))

    def _quote(self, name: str) -> str:
        path = self._log_file(name)
        try:
            lines = last_lines(path, _QUOTED_LINES)
        except OSError:
            return ""
        return "\n".join([f"; the last lines of {path}:", *(f"    {line}" for line in lines)]) if lines else ""

    def _identify(self) -> bool:
        running = {name: server.process_id for name, server in self._known.items() if server.process_id is not None}
        former = {name: process.pid for name, process in self.identities.items()}
        if running == former:
            return False
        self.identities = {
            name: self.identities[name] if former.get(name) == pid else identify(pid) for name, pid in running.items()
        }
        return True
