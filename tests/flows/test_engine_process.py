"""Engine processes as they really behave: ready, refused, dead, deaf to signals, with runaway children."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from free_ports import free_port
from pymotor.engines import EngineProcess, EngineStartError, ServerPlan, guardian
from pymotor.fleet import Endpoint

WITHIN = 60.0
"""Seconds after which a condition is given up."""

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a subreaper and /proc")

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *arguments): pass
PORT = int(sys.argv[1])
def serve():
    http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""

RUNAWAY = """
import os, socket, sys, time
os.setsid()
if os.fork():
    os._exit(0)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
open(sys.argv[2], "w").write(str(os.getpid()))
time.sleep(1000)
"""


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {WITHIN} s"
        await asyncio.sleep(0.01)


def alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Bench:
    """Makes engine processes out of Python programs and ends what a test leaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.made: list[EngineProcess] = []

    def engine(self, program: str, *arguments: str, deadline: float = WITHIN, **variables: str) -> EngineProcess:
        plan = ServerPlan(
            name="prefill-0",
            endpoint=Endpoint(id="prefill-0/0", url=f"http://127.0.0.1:{self.port}"),
            argv=(sys.executable, "-c", textwrap.dedent(program), str(self.port), *arguments),
            env=variables,
        )
        process = EngineProcess(plan, self.directory / "prefill-0.log", deadline)
        self.made.append(process)
        return process

    def runaway(self) -> tuple[int, Path, str]:
        """A port, a file for a process id, and a program whose server starts a grandchild that leaves its session,
        listens on that port and writes its id."""
        port, note = free_port(), self.directory / "runaway.pid"
        program = (
            SERVER
            + f"import subprocess\nsubprocess.run([sys.executable, '-c', {RUNAWAY!r}, '{port}', {str(note)!r}])\n"
        )
        return port, note, program


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for process in made.made:
        await process.stop(0)


def can_listen(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def test_an_engine_is_started_watched_and_stopped(bench: Bench) -> None:
    engine = bench.engine(
        SERVER + "import os; print('hello', os.environ['GREETED'], flush=True)\nserve()", GREETED="you"
    )
    await engine.start()
    await engine.wait_ready()
    assert engine.running
    assert engine.process_id is not None
    assert os.getpgid(engine.process_id) == engine.process_id != os.getpgid(0)
    assert engine.last_log_lines() == ["hello you"]
    await engine.stop(WITHIN)
    assert engine.exit_status == -signal.SIGTERM
    assert not engine.running
    assert not alive(engine.process_id)
    assert can_listen(bench.port)


@linux_only
async def test_what_left_the_servers_session_ends_with_it(bench: Bench) -> None:
    port, note, program = bench.runaway()
    engine = bench.engine(program + "serve()")
    await engine.start()
    await engine.wait_ready()
    await until(lambda: note.exists() and note.read_text() != "", "the grandchild")
    runaway = int(note.read_text())
    assert engine.process_id is not None
    assert os.getsid(runaway) != os.getsid(engine.process_id)
    assert not can_listen(port)
    await engine.stop(WITHIN)
    assert not alive(runaway)
    assert can_listen(port)


@linux_only
async def test_a_server_that_dies_takes_all_with_it(bench: Bench) -> None:
    port, note, program = bench.runaway()
    engine = bench.engine(program + "serve()")
    await engine.start()
    await engine.wait_ready()
    await until(lambda: note.exists() and note.read_text() != "", "the grandchild")
    assert engine.process_id is not None
    os.kill(engine.process_id, signal.SIGKILL)
    assert await asyncio.wait_for(engine.wait_exit(), WITHIN) == -signal.SIGKILL
    assert engine.end_in_words() == "killed by signal 9"
    await asyncio.wait_for(engine.stop(WITHIN), WITHIN)
    assert not alive(int(note.read_text()))
    assert can_listen(port)


async def test_a_server_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    engine = bench.engine("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER + "serve()")
    await engine.start()
    await engine.wait_ready()
    await asyncio.wait_for(engine.stop(0.2), WITHIN)
    assert engine.exit_status == -signal.SIGKILL


async def test_a_second_stop_may_be_shorter(bench: Bench) -> None:
    engine = bench.engine("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER + "serve()")
    await engine.start()
    await engine.wait_ready()
    patient = asyncio.create_task(engine.stop(float("inf")))
    await asyncio.sleep(0)
    await asyncio.wait_for(engine.stop(0), WITHIN)
    await asyncio.wait_for(patient, WITHIN)
    assert engine.exit_status == -signal.SIGKILL


@linux_only
async def test_nothing_is_left_when_the_owner_is_killed(bench: Bench) -> None:
    port, note, program = bench.runaway()
    owner = textwrap.dedent(
        f"""
        import asyncio, os, sys
        from pathlib import Path
        from pymotor.engines import EngineProcess, ServerPlan
        from pymotor.fleet import Endpoint

        async def main():
            endpoint = Endpoint(id="prefill-0/0", url="http://127.0.0.1:{bench.port}")
            argv = (sys.executable, "-c", {program + "serve()"!r}, "{bench.port}")
            plan = ServerPlan(name="prefill-0", endpoint=endpoint, argv=argv, env={{}})
            engine = EngineProcess(plan, Path({str(bench.directory)!r}) / "log", {WITHIN})
            await engine.start()
            await engine.wait_ready()
            print(engine.process_id, flush=True)
            await asyncio.sleep(1000)

        asyncio.run(main())
        """
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", owner, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        server = int(await asyncio.wait_for(process.stdout.readline(), WITHIN))
        await until(lambda: note.exists() and note.read_text() != "", "the grandchild")
        everyone = [server, int(note.read_text()), *(child.pid for child in psutil.Process(process.pid).children())]
        assert all(alive(process_id) for process_id in everyone)
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not any(alive(process_id) for process_id in everyone), "the end of the engine")
    assert can_listen(port)
    assert can_listen(bench.port)


@linux_only
async def test_the_server_ends_when_owner_and_guardian_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, guardian.__file__, sys.executable, "-c", "import time; time.sleep(1000)"]
    owned = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert owned.stdout is not None
    word, server = (await asyncio.wait_for(owned.stdout.readline(), WITHIN)).split()
    assert word == b"started"
    owned.kill()
    await owned.wait()
    await until(lambda: not alive(int(server)), "the end of the server")


async def test_the_server_ends_with_a_killed_guardian(bench: Bench) -> None:
    engine = bench.engine(SERVER + "serve()")
    await engine.start()
    await engine.wait_ready()
    assert engine.process_id is not None
    os.kill(psutil.Process(engine.process_id).ppid(), signal.SIGKILL)
    assert await asyncio.wait_for(engine.wait_exit(), WITHIN) == -signal.SIGKILL
    await until(lambda: engine.process_id is not None and not alive(engine.process_id), "the end of the server")
    await engine.stop(0)


async def test_an_exit_before_ready_is_told_with_the_last_lines(bench: Bench) -> None:
    engine = bench.engine("print('one'); print('no such model'); raise SystemExit(3)", deadline=1000)
    await engine.start()
    with pytest.raises(EngineStartError) as fault:
        await asyncio.wait_for(engine.wait_ready(), WITHIN)
    assert "prefill-0 ended (exit status 3) before it was ready" in str(fault.value)
    assert "no such model" in str(fault.value)
    assert str(engine.log_path) in str(fault.value)


async def test_the_log_of_an_earlier_run_is_kept_and_not_quoted(bench: Bench) -> None:
    (bench.directory / "prefill-0.log").write_text("earlier\n")
    engine = bench.engine("print('now')")
    await engine.start()
    await asyncio.wait_for(engine.wait_exit(), WITHIN)
    assert engine.last_log_lines() == ["now"]
    assert engine.log_path.read_text() == "earlier\nnow\n"


async def test_a_deadline_ends_the_wait(bench: Bench) -> None:
    engine = bench.engine("import time; print('loading', flush=True); time.sleep(1000)", deadline=0.3)
    await engine.start()
    with pytest.raises(EngineStartError, match=r"did not answer http://127.0.0.1:\d+/health within 0.3 s"):
        await asyncio.wait_for(engine.wait_ready(), WITHIN)
    assert engine.running
    await asyncio.wait_for(engine.stop(WITHIN), WITHIN)


async def test_a_server_that_is_not_healthy_yet_is_not_ready(bench: Bench) -> None:
    engine = bench.engine(SERVER.replace("200 if", "503 if") + "serve()", deadline=1.0)
    await engine.start()
    with pytest.raises(EngineStartError, match="did not answer"):
        await asyncio.wait_for(engine.wait_ready(), WITHIN)


async def test_a_command_that_does_not_exist_is_told(tmp_path: Path) -> None:
    endpoint = Endpoint(id="prefill-0/0", url=f"http://127.0.0.1:{free_port()}")
    plan = ServerPlan(name="prefill-0", endpoint=endpoint, argv=("/no/such/vllm", "serve"), env={})
    engine = EngineProcess(plan, tmp_path / "log", WITHIN)
    with pytest.raises(EngineStartError, match=r"prefill-0 could not be started: No such file.*: /no/such/vllm"):
        await engine.start()
    await engine.stop(WITHIN)


async def test_a_log_that_cannot_be_written_is_told(bench: Bench) -> None:
    bench.directory = bench.directory / "missing"
    engine = bench.engine(SERVER + "serve()")
    with pytest.raises(EngineStartError, match=r"could not be started: .*prefill-0\.log"):
        await engine.start()


async def test_a_taken_port_is_told_before_anything_starts(bench: Bench) -> None:
    engine = bench.engine(SERVER + "serve()")
    with (
        socket.create_server(("127.0.0.1", bench.port)),
        pytest.raises(EngineStartError, match="something else listens"),
    ):
        await engine.start()
    assert engine.process_id is None
    await engine.stop(WITHIN)


@linux_only
async def test_an_answer_of_another_server_is_not_taken_for_the_engines(bench: Bench) -> None:
    note = bench.directory / "waiting"
    engine = bench.engine(f"open({str(note)!r}, 'w').close()\nimport time; time.sleep(1000)")
    await engine.start()
    await until(note.exists, "the start")
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER + "serve()", str(bench.port))
    try:
        with pytest.raises(EngineStartError, match="another server, which answers in its place"):
            await asyncio.wait_for(engine.wait_ready(), WITHIN)
    finally:
        other.kill()
        await other.wait()


async def test_stop_before_start_does_nothing(bench: Bench) -> None:
    await bench.engine(SERVER).stop(WITHIN)


@linux_only
async def test_shared_memory_of_killed_engines_is_given_back(bench: Bench) -> None:
    name = f"pymotor-test-{bench.port}"
    program = f"from multiprocessing.shared_memory import SharedMemory\nheld = SharedMemory({name!r}, True, 64)\n"
    ignore = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    engine = bench.engine(SERVER + program + ignore + "serve()")
    await engine.start()
    await engine.wait_ready()
    assert name in os.listdir("/dev/shm")
    await asyncio.wait_for(engine.stop(0), WITHIN)
    assert engine.exit_status == -signal.SIGKILL
    assert name not in os.listdir("/dev/shm")


async def test_many_engines_end_together(tmp_path: Path) -> None:
    benches = [Bench(tmp_path) for _ in range(6)]
    engines = [bench.engine(SERVER + "serve()") for bench in benches]
    await asyncio.gather(*(engine.start() for engine in engines))
    await asyncio.gather(*(engine.wait_ready() for engine in engines))
    await asyncio.gather(*(engine.stop(WITHIN) for engine in engines))
    assert not [engine for engine in engines if engine.process_id is None or alive(engine.process_id)]


def test_the_guardian_starts_with_the_standard_library_alone() -> None:
    """It must not depend on what is installed, nor on the engine's environment."""
    command = [sys.executable, "-I", "-S", guardian.__file__, sys.executable, "-c", "print(1)"]
    done = subprocess.run(
        command, input=b"", capture_output=True, timeout=WITHIN, env={"PYTHONPATH": "/nowhere"}, check=True
    )
    assert done.stdout.split()[0] == b"started"
    assert done.stdout.split()[-1] == b"empty"
