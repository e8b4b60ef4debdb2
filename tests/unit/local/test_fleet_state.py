"""What is on disk of a fleet, which fleet a verb means, and who owns what."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from free_ports import free_port
from pymotor.control_plane.token import LOCAL_TOKEN_FILE
from pymotor.engines.port_claims import PortClaims
from pymotor.local.processes import ProcessIdentity, identify, is_alive, kill_groups, terminate
from pymotor.local.selection import choose_fleet
from pymotor.local.state import FleetDirectory, FleetError, FleetState, Phase, state_home, write_atomically


def put_fleet(home: Path, name: str, *, runs: bool, port: int = 31015) -> FleetDirectory:
    fleet = FleetDirectory(home, name)
    fleet.path.mkdir(parents=True)
    fleet.write_state(
        FleetState(
            name=name,
            phase=Phase.READY if runs else Phase.STOPPED,
            supervisor=identify(os.getpid()),
            started_at=time.time(),
            url=f"http://127.0.0.1:{port}",
            management_url="",
            observability_url="",
        )
    )
    return fleet


def test_a_directory_has_one_owner_and_is_private(tmp_path: Path) -> None:
    fleet = FleetDirectory(tmp_path, "one")
    with fleet.locked():
        with pytest.raises(FleetError, match="runs already"), FleetDirectory(tmp_path, "one").locked():
            pass
        assert fleet.path.stat().st_mode & 0o777 == 0o700
    with fleet.locked():
        pass


def test_the_token_is_where_people_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYMOTOR_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert FleetDirectory(state_home(), "NAME").token_file == Path(LOCAL_TOKEN_FILE).expanduser()
    argv = [sys.executable, "-m", "pymotor", "kv-conductor", "--help"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    for words in (LOCAL_TOKEN_FILE, "PYMOTOR_CLUSTER_TOKEN_FILE", "13333 is the port where nothing says another"):
        assert words in told


def test_the_last_logs_are_kept_once(tmp_path: Path) -> None:
    fleet = put_fleet(tmp_path, "one", runs=False)
    for text in ("first", "second"):
        fleet.clear()
        fleet.log_file("engine").write_text(text)
        (fleet.embeddings / "item").touch()
    fleet.clear()
    assert [file.read_text() for file in (fleet.path / "logs.previous").iterdir()] == ["second"]
    assert list(fleet.logs.iterdir()) == []
    assert list(fleet.embeddings.iterdir()) == []
    assert fleet.read_state() is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", ".hidden", "x" * 65, "a b", "a\n"])
def test_a_name_cannot_leave_the_home(tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetError, match="cannot be called"):
        FleetDirectory(tmp_path, name)


def test_a_broken_state_is_told_with_its_file(tmp_path: Path) -> None:
    fleet = put_fleet(tmp_path, "one", runs=True)
    fleet.state_file.write_text("{")
    with pytest.raises(FleetError, match=r"one/state\.json"):
        fleet.read_state()


def test_which_fleet_is_meant(tmp_path: Path) -> None:
    assert choose_fleet(tmp_path, None, None) is None
    stopped = put_fleet(tmp_path, "old", runs=False, port=1)
    assert chosen(tmp_path) == stopped.name
    put_fleet(tmp_path, "a", runs=True, port=2)
    assert chosen(tmp_path) == "a"
    put_fleet(tmp_path, "b", runs=True, port=3)
    with pytest.raises(FleetError, match="several fleets run: a, b"):
        choose_fleet(tmp_path, None, None)
    assert chosen(tmp_path, name="old") == "old"
    assert chosen(tmp_path, port=3) == "b"
    assert choose_fleet(tmp_path, None, 4) is None
    assert choose_fleet(tmp_path, "c", None) is None


def chosen(home: Path, name: str | None = None, port: int | None = None) -> str:
    fleet = choose_fleet(home, name, port)
    assert fleet is not None
    return fleet.name


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("PYMOTOR_HOME", raising=False)
    assert state_home() == tmp_path / "pymotor"
    monkeypatch.setenv("PYMOTOR_HOME", str(tmp_path / "own"))
    assert state_home() == tmp_path / "own"
    monkeypatch.delenv("PYMOTOR_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_home() == Path.home() / ".local/state/pymotor"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_home() == Path.home() / ".local/state/pymotor"


def test_the_remedy_names_what_is_the_default_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pymotor").touch()
    monkeypatch.setenv("PYMOTOR_HOME", "fleets")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(FleetError, match=rf"or unset it for the default, {tmp_path}/pymotor$"):
        state_home()
    monkeypatch.delenv("XDG_STATE_HOME")
    with pytest.raises(FleetError, match=rf"or unset it for the default, {Path.home()}/.local/state/pymotor$"):
        state_home()
    monkeypatch.delenv("PYMOTOR_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with (
        pytest.raises(FleetError, match=r"; set PYMOTOR_HOME to .* that this user may write$"),
        FleetDirectory(state_home(), "one").locked(),
    ):
        pass


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    with pytest.raises(TypeError):
        write_atomically(file, "not bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_process_is_told_from_a_later_one_with_its_pid() -> None:
    me = identify(os.getpid())
    assert is_alive(me)
    assert me.started is not None
    assert not is_alive(ProcessIdentity(me.pid, me.started - 1))
    kill_groups([ProcessIdentity(me.pid, me.started - 1)])


def test_a_process_that_does_not_heed_sigterm_is_killed() -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    for code, heeds in ((deaf, False), ("print('on', flush=True); import time; time.sleep(60)", True)):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert terminate(identify(process.pid), 0.3 if not heeds else 60.0) is heeds


def test_ports_are_claimed_across_processes_and_given_back(tmp_path: Path) -> None:
    one, other = PortClaims(tmp_path), PortClaims(tmp_path)
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        assert not one.claim("127.0.0.1", taken)
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))
        assert not one.claim_unbound("127.0.0.1", bound.getsockname()[1])
    assert one.claim("127.0.0.1", taken)
    assert not other.claim("127.0.0.1", taken)
    one.close()
    assert other.claim("127.0.0.1", taken)
    other.close()


def test_files_of_claimed_ports_go_with_their_claims(tmp_path: Path) -> None:
    claims = PortClaims(tmp_path)
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        assert not claims.claim("127.0.0.1", taken)
        assert list(tmp_path.iterdir()) == []
    assert claims.claim("127.0.0.1", taken)
    assert [file.name for file in tmp_path.iterdir()] == [str(taken)]
    claims.close()
    assert list(tmp_path.iterdir()) == []


def test_a_port_has_one_holder_though_its_file_comes_and_goes(tmp_path: Path) -> None:
    """Threads with claims of their own, as processes have them: whoever holds the port looks for others."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        port = server.getsockname()[1]
    holders: list[int] = []
    most: list[int] = []

    def claim_again_and_again(number: int) -> int:
        held = 0
        for _ in range(300):
            claims = PortClaims(tmp_path)
            if claims.claim("127.0.0.1", port):
                holders.append(number)
                most.append(len(holders))
                holders.remove(number)
                held += 1
            claims.close()
        return held

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(claim_again_and_again, range(4))) > 0
    assert max(most) == 1
    assert list(tmp_path.iterdir()) == []


READERS = (["status"], ["down"], ["logs"], ["scale"], ["instances"], ["events"], ["explain"], ["top", "--once"])
EXAMPLE = Path(__file__).parents[3] / "examples" / "infer_engines" / "sim" / "epd"
UP = ["up", "--config_dir", str(EXAMPLE)]


def told(home: str, words: list[str]) -> str:
    """What a verb that fails says with this PYMOTOR_HOME."""
    ended = subprocess.run(
        [sys.executable, "-m", "pymotor", *words],
        env={**os.environ, "PYMOTOR_HOME": home},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("words", [*READERS, UP, [*UP, "--detach"]], ids=" ".join)
def test_a_home_that_is_none_is_told_with_its_variable_and_what_to_do(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").touch()
    remedy = "set PYMOTOR_HOME to the whole path of a directory that this user may write, or unset it"
    said = told(str(tmp_path / "file"), words)
    assert f"PYMOTOR_HOME is '{tmp_path}/file', which is no directory; {remedy}" in said
    said = told("fleets", words)
    assert (
        f"PYMOTOR_HOME is 'fleets', a relative path: a fleet would be found from one directory only; {remedy}" in said
    )


@pytest.mark.parametrize("under", ["/sys/pymotor", "file/below"])
def test_a_home_that_cannot_be_written_is_told_by_up(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").touch()
    home = str(tmp_path / under)
    said = told(home, UP)
    assert " cannot be written: " in said
    assert f"Fleets keep their state in {home}; set PYMOTOR_HOME to the whole path of a directory" in said
