"""One `pymotor up`, from its lock to its last process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import httpx

from pymotor.config import load_config
from pymotor.config.live import ConfigState
from pymotor.control_plane import ClusterToken
from pymotor.control_plane.foreground import lost_output
from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport
from pymotor.engines import EngineStartError
from pymotor.engines.port_claims import PortClaims
from pymotor.local.console import Console, LogConsole
from pymotor.local.events import Answered, Event, Failed, Note, Ready, Stopped, Stopping
from pymotor.local.fleet import LocalFleet
from pymotor.local.fleet_ports import claim_fleet_ports, fleet_ports
from pymotor.local.full_disk import with_cause
from pymotor.local.greeting import KEY_VARIABLE, curl_command, first_request
from pymotor.local.live_config import hand_on_changes
from pymotor.local.plan import FleetPlan, plan_fleet
from pymotor.local.prepare import runnable_config
from pymotor.local.processes import ProcessIdentity, is_alive, kill_groups, wait_gone
from pymotor.local.request import UpRequest
from pymotor.local.state import FleetDirectory, FleetError, Phase, write_atomically
from pymotor.local.store_care import StoreCare
from pymotor.local.told_state import ToldState, first_state

UP = "up"
"""How the log of `pymotor up` itself is called."""
FIRST_ANSWER_SECONDS = 300.0
_TICK_SECONDS = 0.25
_REMAINS_SECONDS = 5.0
_UNTOLD = "`pymotor status` cannot be told"


class Session:
    """Brings one fleet up, keeps it, takes it down."""

    on_ready: Callable[[Path], None] | None = None
    """Called once when the fleet answers, with the path of this session's own log; from then on only that log is
    written. None: the console stays."""

    def __init__(self, request: UpRequest, home: Path, console: Console) -> None:
        """Raises `FleetError` when the fleet cannot have its name."""
        self._request = request
        self._home = home
        self._directory = FleetDirectory(home, request.name)
        self._console: Console | None = console
        self._log: Console | None = None
        self._began = time.monotonic()
        self._end = asyncio.Event()
        self._end_reason = ""
        self._hurry = asyncio.Event()
        self._was_ready = False
        self._told: ToldState | None = None

    def end(self, reason: str) -> None:
        """Stop the fleet; said a second time, at once."""
        if self._end.is_set():
            self._hurry.set()
        self._end_reason = self._end_reason or reason
        self._end.set()

    async def run(self) -> int:
        """Returns the exit status: 0 when the fleet was up and has been stopped by request, else 1."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.end, _asked_by(number))
        ticking = asyncio.create_task(self._tick())
        try:
            with ExitStack() as held:
                try:
                    return await self._run(held)
                except (FleetError, OSError) as error:
                    self._show(Failed(with_cause(str(error), self._directory.path)))
                    return 1
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    async def _run(self, held: ExitStack) -> int:
        """What is taken for the fleet is given back by `held`. Raises `FleetError` when nothing could be started."""
        loaded = load_config(self._request.user_config_path, self._request.env_config_path)
        user, env = runnable_config(self._request, loaded, self._home, self._directory, self._show)
        ports = fleet_ports(user, self._request.port, self._request.host)
        is_new = not self._directory.path.exists()
        held.enter_context(self._directory.locked())
        if is_new:
            held.callback(self._leave_nothing_of_a_refusal)
        claims = held.enter_context(contextlib.closing(PortClaims()))
        self._end_remains()
        claim_fleet_ports(ports, claims)
        self._directory.clear()
        held.callback(shutil.rmtree, self._directory.embeddings, ignore_errors=True)
        log = self._directory.log_file(UP).open("a", encoding="utf-8")
        held.callback(_close, log)
        self._log = LogConsole(log)
        held.callback(setattr, self, "_log", None)
        content = user.model_dump_json(by_alias=True, exclude_unset=True, indent=2)
        write_atomically(self._directory.config_file, content.encode())
        environment = env.model_dump_json(by_alias=True, exclude_unset=True, indent=2)
        write_atomically(self._directory.env_file, environment.encode())
        secret = secrets.token_urlsafe(32)
        write_atomically(self._directory.token_file, secret.encode())
        deadline = self._request.start_deadline
        plan = plan_fleet(user, env, ports, self._directory, Path.cwd(), deadline)
        for warning in plan.warnings:
            self._show(Note(warning, severity="warning"))
        self._told = ToldState(self._directory, first_state(self._directory.name, plan, self._request))
        following = asyncio.create_task(
            hand_on_changes(self._request, loaded, self._directory.config_file, self._show, self._write_configuration)
        )
        try:
            return await self._live(plan, ClusterToken(secret), StoreCare.for_fleet(plan, user, self._show))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _live(self, plan: FleetPlan, token: ClusterToken, care: StoreCare) -> int:
        """Start, keep, and in any case stop everything; returns the exit status."""
        fleet = LocalFleet(plan, self._directory, token, self._show, self._request.start_deadline, self._began)
        fleet.on_change = lambda: self._write_processes(fleet.processes)
        serving = asyncio.create_task(self._serve(fleet, plan, care))
        ending = asyncio.create_task(self._end.wait())
        failure = ""
        try:
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                failure = serving.result()
            elif not self._was_ready:
                failure = f"stopped before it was ready ({self._end_reason})"
        except (EngineStartError, FleetError, OSError) as error:
            failure = with_cause(str(error), self._directory.path)
        finally:
            for task in (serving, ending):
                task.cancel()
            await asyncio.gather(serving, ending, return_exceptions=True)
            await self._stop(fleet, failure)
        return 1 if failure else 0

    async def _serve(self, fleet: LocalFleet, plan: FleetPlan, care: StoreCare) -> str:
        """Start the fleet and watch it; returns why it cannot go on."""
        await fleet.start()
        self._tell(phase=Phase.READY, processes=fleet.processes)
        model = plan.models[0] if plan.models else ""
        request = first_request(model, with_image=plan.takes_images)
        url = plan.ports.url(plan.ports.inference)
        management_url = plan.ports.url(plan.ports.management)
        self._show(
            Ready(
                name=self._directory.name,
                url=url,
                management_url=management_url,
                dashboard_url=f"{management_url}/dashboard" if plan.has_dashboard else "",
                observability_url=plan.ports.url(plan.ports.observability),
                models=plan.models,
                seconds=self._seconds(),
                curl=curl_command(url, request, with_key=plan.asks_for_key, tls=plan.client_tls),
            )
        )
        if self._request.first_request:
            # Not the image that is printed: that one is to be seen going through an encoder, too.
            own = first_request(model, with_image=plan.takes_images, side=96)
            self._show(await ask(url, own, os.environ.get(KEY_VARIABLE, ""), plan.client_tls))
        self._was_ready = True
        if self.on_ready is not None:
            self._console = None
            self.on_ready(self._directory.log_file(UP))
        async with care:
            return await fleet.watch()

    async def _stop(self, fleet: LocalFleet, failure: str) -> None:
        reason = failure.partition("\n")[0] or self._end_reason
        self._show(Stopping(reason))
        began = time.monotonic()
        await fleet.stop(self._hurry)
        try:
            self._tell(phase=Phase.FAILED if failure else Phase.STOPPED, reason=failure or self._end_reason)
        except OSError as error:
            self._show(Note(f"{_UNTOLD}: {error}", severity="warning"))
        self._show(Stopped(time.monotonic() - began))
        if failure:
            self._show(Failed(failure))

    def _leave_nothing_of_a_refusal(self) -> None:
        """A fleet that was refused before any of it started leaves no directory, unless an earlier one did."""
        if self._told is None:
            shutil.rmtree(self._directory.path, ignore_errors=True)

    def _end_remains(self) -> None:
        """What a killed `pymotor up` of this name left: its guardians are ending it; nothing may outlast them."""
        state = self._directory.read_state()
        remains = [] if state is None else [process for process in state.processes.values() if is_alive(process)]
        if remains:
            self._show(Note(f"the last fleet called {self._directory.name} was killed; ending what is left of it"))
            if not wait_gone(remains, _REMAINS_SECONDS):
                kill_groups(remains)

    def _tell(self, **changes: Any) -> None:
        assert self._told is not None
        self._told.change(**changes)

    def _write_processes(self, processes: dict[str, ProcessIdentity]) -> None:
        try:
            self._tell(processes=processes)
        except OSError as error:
            if not self._was_ready:
                raise
            self._note_untold(error)

    def _write_configuration(self, configuration: ConfigState) -> None:
        try:
            self._tell(configuration=configuration)
        except OSError as error:
            self._note_untold(error)

    def _note_untold(self, error: OSError) -> None:
        self._show(Note(f"{_UNTOLD}: {error}; it is tried again", severity="warning"))

    def _show(self, event: Event) -> None:
        if self._log is not None:
            try:
                self._log.show(event)
            except OSError:  # a full disk is no reason to stop serving
                self._log = None
        if self._console is not None:
            try:
                self._console.show(event)
            except OSError as error:
                self._console = None
                lost_output(UP, error)
                self.end(f"nobody can read what it says ({error.strerror})")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._console is not None:
                self._console.tick()
            if self._told is not None and self._told.write_again():
                self._show(Note("`pymotor status` is told again"))

    def _seconds(self) -> float:
        return time.monotonic() - self._began


async def ask(url: str, request: dict[str, Any], key: str = "", tls: ClientTLS | None = None) -> Answered:
    """Send the request, with an API key where there is one, to an https `url` by `tls`, and return the answer. Raises
    `FleetError` when there is none."""
    headers = {"Authorization": f"Bearer {key}"} if key else None
    began = time.monotonic()
    try:
        transport = RenewedTransport(tls, httpx.Limits())
        async with httpx.AsyncClient(timeout=FIRST_ANSWER_SECONDS, trust_env=False, transport=transport) as client:
            response = await client.post(f"{url}/v1/chat/completions", json=request, headers=headers)
        if response.status_code != 200:
            hint = f"; put a key into {KEY_VARIABLE}" if response.status_code in (401, 403) else ""
            raise FleetError(f"the first request was answered {response.status_code}: {response.text[:500]}{hint}")
        text = response.json()["choices"][0]["message"]["content"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise FleetError(f"the first request got no answer that can be read: {error!r}") from error
    timing = response.headers.get("server-timing", "")
    return Answered(str(text), timing, time.monotonic() - began)


def _close(log: TextIO) -> None:
    """Where its disk is full, what it could not write is lost, and closing it says so once more."""
    with contextlib.suppress(OSError):
        log.close()


def _asked_by(number: signal.Signals) -> str:
    if number is signal.SIGINT:
        return "Ctrl-C"
    return "the terminal was closed" if number is signal.SIGHUP else "asked to stop"
