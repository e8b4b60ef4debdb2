"""`show_log.sh`: the logs of all pods of a deployment into files, in the background or here."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pymotor.command_output import Parser, in_one_line
from pymotor.deployer.kubectl import Kubectl
from pymotor.deployer.kubectl_errors import KubectlError
from pymotor.deployer.log_follower import LogFollower
from pymotor.deployer.log_settings import LogSettings, LogSettingsError, read_log_settings

_PREDECESSOR_SECONDS = 20.0
_POLL_SECONDS = 0.1
_READY = "logs are written to"


def collect(settings: LogSettings, poll_seconds: float, quiet_seconds: float) -> int:
    """Follow all pods until a signal, or until none is left; the exit status."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    settings.out_path.mkdir(parents=True, exist_ok=True)
    with _only_follower(settings):
        directory = _new_directory(settings.out_path)
        print(f"{_READY} {directory}", flush=True)
        follower = LogFollower(
            Kubectl(settings.namespace),
            settings,
            directory,
            poll_seconds=poll_seconds,
            quiet_seconds=quiet_seconds,
        )
        follower.follow(stopped, _tell)
    return 0


def _tell(words: str) -> None:
    try:
        print(words, flush=True)
    except OSError:
        # Who started it in the background has gone; the files are what matters.
        pass


def _new_directory(out_path: Path) -> Path:
    moment = datetime.now()
    while True:
        directory = out_path / moment.strftime("%Y%m%d_%H%M%S")
        try:
            directory.mkdir()
        except FileExistsError:
            # Another namespace began in the same second.
            moment = moment.fromtimestamp(moment.timestamp() + 1)
        else:
            return directory


@contextmanager
def _only_follower(settings: LogSettings) -> Iterator[None]:
    """Hold the namespace's lock file; whoever held it is asked to end first. Raises `LogSettingsError`."""
    path = settings.out_path / f".{settings.namespace}.follower"
    with path.open("a+", encoding="utf-8") as file:
        ends = time.monotonic() + _PREDECESSOR_SECONDS
        asked = 0
        while not _locked(file.fileno()):
            file.seek(0)
            # The number is that of the lock's holder, since it writes it while it holds the lock.
            holder = file.read().strip()
            if holder.isdecimal() and int(holder) != asked:
                asked = int(holder)
                try:
                    os.kill(asked, signal.SIGTERM)
                except ProcessLookupError:
                    pass
                except PermissionError as error:
                    raise LogSettingsError(f"another user's process {asked} follows {settings.namespace}") from error
            if time.monotonic() > ends:
                raise LogSettingsError(f"process {holder} follows {settings.namespace} and does not end; end it")
            time.sleep(_POLL_SECONDS)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _in_background(arguments: argparse.Namespace, settings: LogSettings) -> str | None:
    """Start this program again without a terminal; returns what it says: where it writes. None: nothing, it failed."""
    settings.out_path.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "pymotor.deployer.log_collection", "--config", str(arguments.config)]
    argv += ["--namespace", settings.namespace]
    argv += ["--poll", str(arguments.poll), "--quiet", str(arguments.quiet)]
    errors = settings.out_path / f"{settings.namespace}.follower.log"
    with errors.open("ab") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(_READY):
        print(f"logs are not collected, {errors} says why", file=sys.stderr)
        return None
    return f"{line.strip()} by process {process.pid}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit status 0 good, 1 failed, 2 wrong usage or settings."""
    parser = Parser(prog="show_log.sh", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="log_config.ini")
    parser.add_argument("--namespace", default="", help="instead of the file's name_space")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    parser.add_argument("--poll", type=float, default=5.0, metavar="SECONDS", help="between two looks (%(default)g)")
    parser.add_argument(
        "--quiet", type=float, default=30.0, metavar="SECONDS", help="end when no pod was there so long (%(default)g)"
    )
    return in_one_line("show_log.sh", lambda: _run(parser.parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    try:
        settings = read_log_settings(arguments.config, arguments.namespace)
        # A follower goes on when a cluster fails for a while; one that never answered is most likely a wrong one.
        Kubectl(settings.namespace).listed(["pods"])
        if not arguments.detach:
            return collect(settings, arguments.poll, arguments.quiet)
        told = _in_background(arguments, settings)
    except LogSettingsError as error:
        print(f"show_log.sh: {error}", file=sys.stderr)
        return 2
    except KubectlError as error:
        print(f"logs are not collected: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"show_log.sh: {error}", file=sys.stderr)
        return 1
    if told is None:
        return 1
    # Where this cannot be written, logs are collected all the same; whoever tries again gets a new follower.
    print(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
