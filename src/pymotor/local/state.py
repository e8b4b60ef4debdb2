"""What is on disk of a fleet: one directory for each, readable by its owner alone.

<home>/<name>/state.json        what `pymotor status`, `down` and `logs` read
              user_config.json  the configuration as it runs, after replacements
              env.json          the environment of its parts, likewise
              token             what its parts show each other
              controller/       the Controller's epoch
              lock              held by the `pymotor up` that owns the directory, as long as it lives
              logs/             one file for each process
              embeddings/       the store between encoders and their consumers
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import msgspec

from pymotor.config.live import ConfigState
from pymotor.control_plane import ClusterToken
from pymotor.control_plane.asking import Trust
from pymotor.control_plane.plane import PlaneTLS
from pymotor.local.processes import ProcessIdentity, is_alive

HOME_VARIABLE = "PYMOTOR_HOME"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class FleetError(Exception):
    """Something a person has to know and can act on; the message says what."""


class Phase(str, Enum):
    """Where a fleet is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class FleetState(msgspec.Struct, frozen=True, kw_only=True):
    """What `pymotor up` tells the other verbs."""

    name: str
    phase: Phase
    reason: str = ""
    """Why it stopped or failed."""
    supervisor: ProcessIdentity
    """The `pymotor up` that owns the fleet."""
    processes: dict[str, ProcessIdentity] = {}
    """Leaders of the process groups that were started, by name."""
    started_at: float
    """Seconds since the epoch."""
    url: str
    management_url: str
    observability_url: str
    controller_url: str = ""
    conductor_url: str = ""
    """Of the KV Conductor; empty where there is none."""
    models: tuple[str, ...] = ()
    config: str = ""
    """The user_config.json that was asked for."""
    configuration: ConfigState | None = None
    """What of that file is in force, what waits for a restart, what was refused; None: nobody has looked yet."""
    engine: str | None = None
    """The `--engine` that was asked for."""
    management_tls: PlaneTLS | None = None
    """Of the planes whose ports speak TLS."""
    observability_tls: PlaneTLS | None = None

    def management_certificates(self) -> Trust | None:
        """What Coordinator, Controller and KV Conductor are asked with; None: plain HTTP. Raises `TLSError`."""
        return _trusted(self.management_tls)

    def observability_certificates(self) -> Trust | None:
        """What metrics are asked with, likewise. Raises `TLSError`."""
        return _trusted(self.observability_tls)

    @property
    def running(self) -> bool:
        """Whether its `pymotor up` still lives."""
        return self.phase not in (Phase.STOPPED, Phase.FAILED) and is_alive(self.supervisor)


def _trusted(plane: PlaneTLS | None) -> Trust | None:
    return None if plane is None else Trust(plane.client().context(), plane.peer_name)


class FleetDirectory:
    """The paths of one fleet."""

    def __init__(self, home: Path, name: str) -> None:
        """Raises `FleetError` for a name that is no file name."""
        if not _NAME.fullmatch(name):
            raise FleetError(f"a fleet cannot be called {name!r}: letters, digits, '.', '_' and '-', 64 at most")
        self.name = name
        self.path = home / name
        self.state_file = self.path / "state.json"
        self.config_file = self.path / "user_config.json"
        self.env_file = self.path / "env.json"
        self.token_file = self.path / "token"
        self.controller_state = self.path / "controller"
        self.logs = self.path / "logs"
        self.embeddings = self.path / "embeddings"

    def log_file(self, process: str) -> Path:
        """The log of one process of the fleet."""
        return self.logs / f"{process}.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory; made when it is missing. The kernel gives the lock back when the owner dies.

        Raises `FleetError` when another `pymotor up` owns it, or it cannot be written.
        """
        with self._own_file("lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FleetError(
                    f"a fleet called {self.name} runs already. Stop it (`pymotor down --name {self.name}`), or "
                    "start this one with another --port or --name."
                ) from None
            yield

    def _own_file(self, name: str) -> BinaryIO:
        """A file of the directory, which is made; open for writing. Raises `FleetError`."""
        try:
            make_private(self.path)
            return open(self.path / name, "wb")
        except OSError as error:
            where = error.filename or self.path
            raise FleetError(
                f"{where} cannot be written: {error.strerror}. Fleets keep their state in {self.path.parent}; "
                f"{_remedy()}"
            ) from error

    def clear(self) -> None:
        """Make it ready for a new fleet: the last one's logs are kept in `logs.previous`, the rest goes."""
        previous = self.path / "logs.previous"
        shutil.rmtree(previous, ignore_errors=True)
        if self.logs.exists():
            self.logs.rename(previous)
        for directory in (self.embeddings, self.controller_state):
            shutil.rmtree(directory, ignore_errors=True)
        for file in (self.state_file, self.config_file, self.env_file, self.token_file):
            file.unlink(missing_ok=True)
        make_private(self.logs)
        make_private(self.embeddings)
        make_private(self.controller_state)

    def read_state(self) -> FleetState | None:
        """What the fleet last said of itself, or None when there never was one.

        Raises `FleetError` when the file cannot be understood.
        """
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=FleetState)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise FleetError(
                f"{self.state_file} cannot be read ({error}). When no fleet runs any more, remove {self.path}."
            ) from error

    def read_token(self) -> ClusterToken:
        """What the fleet's Controller is to be shown. Raises `OSError`, `TokenError`."""
        return ClusterToken(self.token_file.read_text(encoding="utf-8").strip())

    def write_state(self, state: FleetState) -> None:
        """Say it to the other verbs."""
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(state), indent=2))


def state_home() -> Path:
    """`$PYMOTOR_HOME`, or `pymotor` in the user's state directory (XDG base directory specification).

    Raises `FleetError` for a variable that names no directory.
    """
    stated = os.environ.get(HOME_VARIABLE)
    if stated:
        return _stated_home(stated)
    return _default_home()


def _default_home() -> Path:
    # The specification has relative paths passed over.
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "pymotor"


def _remedy() -> str:
    words = f"set {HOME_VARIABLE} to the whole path of a directory that this user may write"
    return f"{words}, or unset it for the default, {_default_home()}" if os.environ.get(HOME_VARIABLE) else words


def _stated_home(stated: str) -> Path:
    try:
        home = Path(stated).expanduser()
        is_other = home.exists() and not home.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise FleetError(f"{HOME_VARIABLE} is {stated!r}, which cannot be looked at ({error}); {_remedy()}") from error
    if not home.is_absolute():
        raise FleetError(
            f"{HOME_VARIABLE} is {stated!r}, a relative path: a fleet would be found from one directory only; "
            f"{_remedy()}"
        )
    if is_other:
        raise FleetError(f"{HOME_VARIABLE} is {stated!r}, which is no directory; {_remedy()}")
    return home


def all_fleets(home: Path) -> list[FleetDirectory]:
    """Every fleet that left a state on this machine, by name. Raises `FleetError` where that cannot be seen."""
    try:
        if not home.is_dir():
            return []
        names = sorted(entry.name for entry in home.iterdir() if (entry / "state.json").exists())
    except OSError as error:
        raise FleetError(f"the fleets in {home} cannot be listed: {error.strerror}; {_remedy()}") from error
    return [FleetDirectory(home, name) for name in names if _NAME.fullmatch(name)]


def make_private(path: Path) -> None:
    """A directory for its owner alone; directories above it are made as the user's umask says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old content or the new one, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
