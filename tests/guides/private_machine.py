"""A machine of a test's own: private processes, network and root directory, in Linux namespaces.

Guides write fixed ports, addresses like 192.0.0.1 and directories like /data. In here they can be taken word for word:
nothing clashes with other programs, nothing stays behind, and no privilege is needed where the kernel lets users make
namespaces. Everything that runs in it ends with it, since its first process is the init of a PID namespace.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
READY_SECONDS = 180.0
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
_AS_USER = ("--user", "--map-root-user")
_UNSET = [f"--unset={name}" for name in ("VLLM_PYTHON", "PYMOTOR_HOME", "http_proxy", "https_proxy", "no_proxy")]

_SETUP = """
set -euo pipefail
root="$1"
mount -t tmpfs tmpfs "$root"
for entry in /*; do
    if [ -L "$entry" ]; then
        cp -P "$entry" "$root/"
    elif [ -d "$entry" ] && [[ ! "$entry" =~ ^/(proc|etc|data|vllm-workspace)$ ]]; then
        mkdir "$root$entry"
        mount --rbind "$entry" "$root$entry"
    fi
done
mkdir -p "$root/proc" "$root/etc" "$root/.etc" "$root/data" "$root/vllm-workspace/vllm-ascend"
mount -t proc proc "$root/proc"
mount --rbind /etc "$root/.etc"
for entry in /etc/*; do
    [ "$entry" = /etc/hccn.conf ] || ln -s "/.etc/${entry##*/}" "$root$entry"
done
touch "$root/etc/hccn.conf"
cp -R "$2/examples" "$root/vllm-workspace/vllm-ascend"
ip link set lo up
echo ready
exec chroot "$root" bash -c 'sleep infinity & wait'
"""

_NODES = """
set -euo pipefail
ip link add switch type bridge
ip link set switch up
count=0
for address in "$@"; do
    count=$((count + 1))
    unshare --net --mount sleep infinity </dev/null >/dev/null 2>&1 &
    node=$!
    until [ "$(readlink /proc/$node/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
    ip link add "to-$count" type veth peer name eth0 netns "$node"
    ip link set "to-$count" master switch up
    nsenter -t "$node" -n ip link set lo up
    nsenter -t "$node" -n ip address add "$address/24" dev eth0
    nsenter -t "$node" -n ip link set eth0 up
    echo "$node"
done
"""


class Running:
    """A command that was started in the machine."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output, log.with_suffix(".errors").open("wb") as errors:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)

    @property
    def pid(self) -> int:
        """Of the process that entered the machine, as the host counts."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    @property
    def printed(self) -> str:
        """Its standard output so far."""
        return self._log.read_text(errors="replace")

    @property
    def output(self) -> str:
        """All it has said so far: standard output, then standard error."""
        return self.printed + self._log.with_suffix(".errors").read_text(errors="replace")

    def wait(self, seconds: float = READY_SECONDS) -> int:
        """Its exit status. Raises `subprocess.TimeoutExpired`."""
        return self._process.wait(seconds)


class PrivateMachine:
    """A machine with loopback only, or with several `nodes` that are joined by a switch, each an address on its eth0.

    /vllm-workspace/vllm-ascend has a copy of the examples. /data, /etc and all that is made in / are its own, what lies
    in other directories is the host's. On PATH are `vllm`, which is the simulated engine, `pymotor`, and `python` and
    `python3`, which have PyMotor. Use it as a context manager.
    """

    private = True
    """Whether nothing else runs in it."""

    def __init__(self, scratch: Path, nodes: Sequence[str] = ()) -> None:
        self._scratch = scratch
        self._addresses = nodes
        self._nodes: dict[str, str] = {}
        self._count = 0
        self._init = ""
        self._holder: subprocess.Popen[bytes] | None = None
        self.programs = scratch / "bin"

    def __enter__(self) -> PrivateMachine:
        self._install_programs()
        root = self._scratch / "root"
        root.mkdir()
        self._holder = subprocess.Popen(
            [*unshare(), "bash", "-c", _SETUP, "setup", str(root), str(CHECKOUT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._holder.stdout is not None
            assert self._holder.stdout.readline() == b"ready\n", "no private machine; see above"
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
            self._init = children.read_text().split()[0]
            wait_until(lambda: os.readlink(f"/proc/{self._init}/root") == str(root), "the private root")
            if self._addresses:
                made = subprocess.run(
                    [*self._enter(), "bash", "-c", _NODES, "nodes", *self._addresses],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert made.returncode == 0, made.stderr
                self._nodes = dict(zip(self._addresses, made.stdout.split(), strict=True))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._holder is not None
        if self._init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._init), signal.SIGKILL)
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def start(self, text: str, directory: str = "/", node: str = "", **environment: str) -> Running:
        """Run a shell script as it stands, in this directory, on this node."""
        self._count += 1
        script = self._scratch / f"{self._count}.sh"
        script.write_text(text, encoding="utf-8")
        words = [*self._enter(node), "env", f"--chdir={directory}", *_UNSET]
        words += [f"PATH={self.programs}:{os.environ['PATH']}", f"HOME={self._scratch}"]
        words += [f"{name}={value}" for name, value in environment.items()]
        return Running([*words, "bash", str(script)], script.with_suffix(".log"))

    def run(self, text: str, directory: str = "/", node: str = "", **environment: str) -> str:
        """Run a shell script to its end; its standard output. Raises `AssertionError` when it fails."""
        running = self.start(text, directory, node, **environment)
        status = running.wait()
        assert status == 0, f"{text}\nended with {status}:\n{running.output}"
        return running.printed

    def succeeds(self, text: str, node: str = "") -> bool:
        """Whether a short script ends with 0."""
        done = subprocess.run(
            [*self._enter(node), "bash", "-c", text], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return done.returncode == 0

    def wait_until_ok(self, url: str, *needed: Running, node: str = "") -> None:
        """Wait until GET answers 200. Raises `AssertionError` when one of `needed` ends before."""
        question = f"curl --silent --fail --noproxy '*' --max-time 5 --output /dev/null '{url}'"

        def answered() -> bool:
            for running in needed:
                assert running.status is None, f"ended with {running.status}:\n{running.output}"
            return self.succeeds(question, node)

        wait_until(answered, lambda: f"{url} answers 200\n" + "\n".join(running.output for running in needed))

    def path(self, inside: str) -> Path:
        """A path of the machine as this process sees it."""
        return Path(f"/proc/{self._init}/root") / inside.lstrip("/")

    def _enter(self, node: str = "") -> list[str]:
        words = ["nsenter", "--target", self._init, "--mount", "--net", "--pid", "--root", "--wd=/"]
        words += ["--user", "--preserve-credentials"] if "--user" in unshare() else []
        if node:
            words += ["nsenter", "--target", self._nodes[node], "--net", "--mount", "--root", "--wd=/"]
        return words

    def _install_programs(self) -> None:
        install = [sys.executable, "-m", "pymotor", "sim-engine", "--install-shim", str(self.programs)]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        for name, words in (("python", ""), ("python3", ""), ("pymotor", " -m pymotor")):
            self.add_program(name, f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')

    def add_program(self, name: str, text: str) -> None:
        """Put a script on PATH."""
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], seconds: float = READY_SECONDS) -> None:
    """Wait until `condition()` is true. Raises `AssertionError` that says `what` did not happen."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


@functools.cache
def obstacle() -> str:
    """Why no private machine can be made here; empty where it can."""
    missing = [name for name in ("unshare", "nsenter", "ip", "curl", "bash") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else _try(unshare())


@functools.cache
def unshare() -> tuple[str, ...]:
    """How namespaces are made: as any user where the kernel lets them, else as root."""
    as_user = (*_UNSHARE, *_AS_USER)
    return _UNSHARE if os.geteuid() == 0 and _try(as_user) and not _try(_UNSHARE) else as_user


def _try(words: Sequence[str]) -> str:
    """What is said when namespaces cannot be made in this way; empty where they can."""
    script = "mount -t tmpfs tmpfs /tmp && mount -t proc proc /proc && ip link set lo up"
    tried = subprocess.run(
        [*words, "bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return (tried.stderr.strip() or f"status {tried.returncode}") if tried.returncode else ""


@contextlib.contextmanager
def private_machine(scratch: Path, nodes: Sequence[str] = ()) -> Iterator[PrivateMachine]:
    """The machine for the length of a `with` block."""
    with PrivateMachine(scratch, nodes) as machine:
        yield machine


def skip_without_namespaces() -> None:
    """Skip the test where the kernel lets this user make no namespaces."""
    reason = obstacle()
    if reason:
        pytest.skip(f"the guides' commands are NOT TESTED here, since namespaces cannot be made: {reason}")
