"""The configuration that `pymotor up` runs: loaded, checked, and with `--engine` made to run on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pymotor.config import EnvConfig, LoadedConfig, Problem, UserConfig, load_config
from pymotor.config.checks import check_user
from pymotor.config.user import ROLES
from pymotor.engines.checks import check_engines
from pymotor.engines.tiny_model import NotOursError, make_tiny_model
from pymotor.local.events import Event, Note
from pymotor.local.request import LocalEngine, UpRequest
from pymotor.local.state import FleetDirectory, FleetError
from pymotor.local.substitute import VLLM_CPU_BYTES, LocalMeans, substitute

TINY_MODEL = ".models/tiny-qwen3-vl"
_MEMORY_LEFT_FREE = 1_000_000_000


def runnable_config(
    request: UpRequest, home: Path, directory: FleetDirectory, show: Callable[[Event], None]
) -> tuple[UserConfig, EnvConfig]:
    """Load and check the configuration, with `--engine` applied; shows each problem and each replacement.

    Raises `FleetError` when it cannot run.
    """
    file, directory_of_file = str(request.user_config_path), request.user_config_path.parent
    loaded = load_config(request.user_config_path, request.env_config_path)
    if request.engine is not None and loaded.user is not None:
        replaced_too = check_user(loaded.user, file, directory_of_file)
        loaded = replace(loaded, problems=tuple(one for one in loaded.problems if one not in replaced_too))
    user, env = _accepted(loaded, show)
    further: list[Problem] = []
    if request.engine is not None:
        means = _local_means(request.engine, home, directory)
        user, env = _substituted(user, env, means, request, show)
        further += check_user(user, file, directory_of_file)
    further += check_engines(user, file)
    return _accepted(LoadedConfig(user, env, tuple(further)), show)


def _substituted(
    user: UserConfig, env: EnvConfig, means: LocalMeans, request: UpRequest, show: Callable[[Event], None]
) -> tuple[UserConfig, EnvConfig]:
    """With `--engine` applied; each replacement is shown."""
    substitution = substitute(user, env, means)
    if substitution.replaced:
        show(Note(f"--engine {means.engine} replaces in {request.user_config_path}:"))
    for replaced in substitution.replaced:
        show(replaced)
    _warn_of_memory(substitution.user, means, show)
    return substitution.user, substitution.env


def _accepted(loaded: LoadedConfig, show: Callable[[Event], None]) -> tuple[UserConfig, EnvConfig]:
    for problem in loaded.problems:
        show(Note(str(problem).removeprefix(f"{problem.severity}: "), severity=problem.severity))
    if loaded.user is None or not loaded.ok:
        errors = sum(problem.severity == "error" for problem in loaded.problems)
        raise FleetError(f"the configuration has {errors} error{'s' * (errors > 1)}; nothing was started")
    return loaded.user, loaded.env


def _local_means(engine: LocalEngine, home: Path, directory: FleetDirectory) -> LocalMeans:
    if engine == "sim":
        return LocalMeans(engine=engine, store=directory.embeddings)
    model = home / TINY_MODEL
    try:
        make_tiny_model(model)
    except (NotOursError, OSError) as error:
        raise FleetError(f"the tiny model cannot be made: {error}") from error
    free = free_memory_bytes()
    limit = None if free is None else max(0, free - _MEMORY_LEFT_FREE) // VLLM_CPU_BYTES
    return LocalMeans(engine=engine, store=directory.embeddings, model=model, instance_limit=limit)


def _warn_of_memory(user: UserConfig, means: LocalMeans, show: Callable[[Event], None]) -> None:
    wanted = sum(user.instance_count(role) for role in ROLES)
    if means.instance_limit is not None and wanted > means.instance_limit:
        show(
            Note(
                f"{wanted} vLLM instances need about {wanted * VLLM_CPU_BYTES / 1e9:.1f} GB, which this machine does "
                "not have free; they may be killed for lack of memory",
                severity="warning",
            )
        )


def free_memory_bytes() -> int | None:
    """Memory that new processes can have without swapping, also within a container's limit; None if unknown."""
    try:
        fields = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in fields if line.startswith("MemAvailable:")), None)
    bounds = [bytes_ for bytes_ in (available, _container_memory_left()) if bytes_ is not None]
    return min(bounds, default=None)


def _container_memory_left() -> int | None:
    """What the control group (version 2) still allows; None without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdigit() and used.isdigit() else None
