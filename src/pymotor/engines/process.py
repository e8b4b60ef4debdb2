"""One engine server as a process: started, watched until it answers, and ended with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from pymotor.engines import guardian
from pymotor.engines.listeners import foreign_listener
from pymotor.engines.plan import ServerPlan

PROBE_INTERVAL = 0.1
PROBE_TIMEOUT = 2.0
LAST_LINES = 20
_TAIL_BYTES = 64 * 1024


class EngineStartError(RuntimeError):
    """The engine did not come up; the message has the reason and the last lines of its log."""


class EngineProcess:
    """An engine server in a session of its own, with a guardian that leaves nothing of it behind.

    Call `start()`, `wait_ready()` and, on every way out, `stop()`. Should this process die without that, the
    guardian ends the engine. Not for use from several event loops.
    """

    def __init__(
        self,
        plan: ServerPlan,
        log_path: Path,
        start_deadline: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`log_path`: appended to; its directory exists. `start_deadline`: seconds from `start()` to the first
        good answer. `environment`: what the engine inherits beside `plan.env`; None: this process's own."""
        self.plan = plan
        self.log_path = log_path
        self.start_deadline = start_deadline
        self._environment = dict(os.environ if environment is None else environment) | plan.env
        self._guardian: subprocess.Popen[bytes] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._exited = asyncio.Event()
        self._empty = asyncio.Event()
        self._log_start = 0
        self._start_time = 0.0
        self._refusal = ""
        self.process_id: int | None = None
        """Of the server, once it was started."""
        self.exit_status: int | None = None
        """Of the server: None while it runs, negative for the signal that ended it."""

    async def start(self) -> None:
        """Start the server. Raises EngineStartError when the command cannot be run or its port is taken."""
        if self._guardian is not None:
            raise RuntimeError(f"{self.plan.name} was started before; an EngineProcess lives once")
        await self._refuse_taken_port()
        self._start_time = asyncio.get_running_loop().time()
        try:
            self._guardian = self._start_guardian()
        except OSError as error:
            raise EngineStartError(f"{self.plan.name} could not be started: {error}") from error
        self._listener = asyncio.create_task(self._listen(self._guardian), name=f"guardian of {self.plan.name}")
        await self._started.wait()
        if self._refusal:
            raise EngineStartError(f"{self.plan.name} could not be started: {self._refusal}")

    async def wait_ready(self) -> None:
        """Return when the server answers its health path with 200; a headless one is ready once it runs.

        Raises EngineStartError at once when it exits before, and after `start_deadline`. The caller stops it.
        """
        if self.plan.headless and not self._exited.is_set():
            return
        probe = asyncio.create_task(self._probe_until_healthy())
        exited = asyncio.create_task(self._exited.wait())
        left = self.start_deadline - (asyncio.get_running_loop().time() - self._start_time)
        try:
            done, _ = await asyncio.wait({probe, exited}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (probe, exited):
                task.cancel()
            await asyncio.gather(probe, exited, return_exceptions=True)
        if self._exited.is_set():
            how = self.end_in_words()
            raise EngineStartError(f"{self.plan.name} ended ({how}) before it was ready{self._quote()}")
        if probe not in done:
            within = f"within {self.start_deadline:g} s"
            raise EngineStartError(f"{self.plan.name} did not answer {self.health_url} {within}{self._quote()}")
        probe.result()

    async def wait_exit(self) -> int:
        """Wait until the server has ended by itself or was stopped; returns its exit status."""
        await self._exited.wait()
        return self.exit_status if self.exit_status is not None else -1

    async def stop(self, grace: float) -> None:
        """End the server: SIGTERM, after `grace` seconds SIGKILL, then everything that it started.

        Returns when nothing of it lives any more. May be called at any time, also again with a shorter grace.
        """
        process = self._guardian
        if process is None:
            return
        with contextlib.suppress(BrokenPipeError, ValueError):
            assert process.stdin is not None
            os.write(process.stdin.fileno(), f"stop {max(grace, 0.0):.3f}\n".encode())
        await self._empty.wait()
        if self._listener is not None:
            await asyncio.shield(self._listener)

    @property
    def health_url(self) -> str:
        """Where readiness is asked for."""
        return self.plan.endpoint.url + self.plan.health_path

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self.process_id is not None and self.exit_status is None

    def end_in_words(self) -> str:
        """How the server ended, for a person."""
        if self.exit_status is None:
            return "still running"
        if self.exit_status < 0:
            return f"killed by signal {-self.exit_status}"
        return f"exit status {self.exit_status}"

    def last_log_lines(self, number: int = LAST_LINES) -> list[str]:
        """The last lines that this run of the server wrote."""
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - _TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-number:]
        except OSError:
            return []

    def _quote(self) -> str:
        lines = self.last_log_lines()
        said = "\n".join(f"    {line}" for line in lines) if lines else "    (it wrote nothing)"
        return f"; the last lines of {self.log_path}:\n{said}"

    def _start_guardian(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", guardian.__file__, *self.plan.argv]
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    async def _refuse_taken_port(self) -> None:
        """A foreign server on the port would answer the health check in the engine's place."""
        if self.plan.headless:
            return
        url = httpx.URL(self.plan.endpoint.url)
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(url.host, url.port), PROBE_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            return
        writer.close()
        raise EngineStartError(
            f"{self.plan.name} could not be started: something else listens on {url.host}:{url.port}; "
            "end it or choose another port"
        )

    def _refuse_foreign_answer(self) -> None:
        """It may have been another server that answered."""
        url = httpx.URL(self.plan.endpoint.url)
        owned = guardian.descendants(self._guardian.pid) if self._guardian is not None else []
        if foreign_listener(url.host, url.port or 80, owned):
            raise EngineStartError(
                f"{self.plan.name} has to share {url.host}:{url.port} with another server, which answers in its place; "
                "end that server or choose another port"
            )

    async def _probe_until_healthy(self) -> None:
        verify = self._trust()
        tls = self.plan.tls
        extensions = {"sni_hostname": tls.peer_name} if tls is not None and tls.peer_name else {}
        async with httpx.AsyncClient(timeout=PROBE_TIMEOUT, trust_env=False, verify=verify) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, ssl.SSLError):
                    answer = await client.get(self.health_url, extensions=extensions)
                    if answer.status_code == 200:
                        return self._refuse_foreign_answer()
                await asyncio.sleep(PROBE_INTERVAL)

    def _trust(self) -> ssl.SSLContext:
        """Raises `EngineStartError`."""
        tls = self.plan.tls
        try:
            # Without TLS one that trusts nobody: the public authorities take 20 ms to load.
            return tls.client() if tls is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        except OSError as error:
            why = f"its certificates do not fit together: {error}"
            raise EngineStartError(f"{self.plan.name} cannot be asked: {why}") from error

    async def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Read the guardian's lines to their end; its end means that the engine is gone."""
        assert process.stdout is not None
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        try:
            async for line in reader:
                self._note(line.decode(errors="replace").strip())
            process.wait()
            self._note_end(process)
        finally:
            transport.close()
            if process.stdin is not None:
                process.stdin.close()  # a guardian that still lives ends the engine now

    def _note(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "started":
            self.process_id = int(rest)
            self._started.set()
        elif word == "failed":
            self._refusal = rest
        elif word == "exited":
            self.exit_status = int(rest)
            self._exited.set()

    def _note_end(self, process: subprocess.Popen[bytes]) -> None:
        """The guardian is gone; had it been killed, the server was by the kernel and its group is here."""
        if self.process_id is not None and self.exit_status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process_id, 9)
            self.exit_status = -9
        if self.process_id is None and not self._refusal:
            self._refusal = f"its guardian ended with status {process.returncode}"
        for event in (self._started, self._exited, self._empty):
            event.set()
