"""The configuration that `pymotor up` runs: loaded, checked, and with `--engine` made to run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pymotor.config import EnvConfig, LoadedConfig, Problem, UserConfig
from pymotor.config.checks import check_user
from pymotor.config.deploy import TLSBlock
from pymotor.config.user import ROLES
from pymotor.control_plane.path_checks import is_file
from pymotor.engines.checks import check_engines
from pymotor.engines.tiny_model import NotOursError, make_tiny_model
from pymotor.local.certificates import certified_planes
from pymotor.local.events import Event, Note
from pymotor.local.request import LocalEngine, UpRequest
from pymotor.local.state import FleetDirectory, FleetError
from pymotor.local.substitute import VLLM_CPU_BYTES, LocalMeans, substitute

_TOKENIZER = "tokenizer.json"
TINY_MODEL = ".models/tiny-qwen3-vl"
_COORDINATOR_PATHS = (
    ("api_key_config", "keys_file"),
    ("scheduler_config", "tokenizer_path"),
    ("prefill_kv_event_config", "model_path"),
)
_TLS_FILES = ("ca_file", "cert_file", "key_file", "passwd_file", "crl_file")
_MEMORY_LEFT_FREE = 1_000_000_000


def runnable_config(
    request: UpRequest, loaded: LoadedConfig, home: Path, directory: FleetDirectory, show: Callable[[Event], None]
) -> tuple[UserConfig, EnvConfig]:
    """Check the loaded configuration and apply `--engine`; shows each problem and each replacement.

    Raises `FleetError` when it cannot run.
    """
    file, directory_of_file = str(request.user_config_path), request.user_config_path.parent
    if request.engine is not None and loaded.user is not None:
        replaced_too = check_user(loaded.user, file, directory_of_file)
        loaded = replace(loaded, problems=tuple(one for one in loaded.problems if one not in replaced_too))
    user, env = _accepted(loaded, show)
    user = _with_whole_paths(user, directory_of_file)
    further: list[Problem] = []
    if request.engine is not None:
        means = replace(_local_means(request.engine, home, directory), kept_tls=certified_planes(user))
        user, env = _substituted(user, env, means, request, show)
        further += check_user(user, file, directory_of_file)
    further += [*_without_tokenizer(user, file), *check_engines(user, file)]
    return _accepted(LoadedConfig(user, env, tuple(further)), show)


def _with_whole_paths(user: UserConfig, directory: Path) -> UserConfig:
    """Files of keys, certificates and tokenizers by their whole paths: what runs reads a copy of the configuration,
    elsewhere."""
    deploy = user.motor_deploy_config
    planes = deploy.tls_config
    for plane in type(planes).model_fields:
        block = getattr(planes, plane)
        if isinstance(block, TLSBlock) and block.enable_tls:
            paths = {key: str((directory / name).absolute()) for key in _TLS_FILES if (name := getattr(block, key))}
            planes = planes.model_copy(update={plane: block.model_copy(update=paths)})
    user = user.model_copy(update={"motor_deploy_config": deploy.model_copy(update={"tls_config": planes})})
    coordinator = user.motor_coordinator_config
    for section_key, key in _COORDINATOR_PATHS:
        section = getattr(coordinator, section_key)
        if name := getattr(section, key):
            section = section.model_copy(update={key: str((directory / name).resolve())})
            coordinator = coordinator.model_copy(update={section_key: section})
    return user.model_copy(update={"motor_coordinator_config": coordinator})


def _without_tokenizer(user: UserConfig, file: str) -> Iterator[Problem]:
    """A tokenizer that is not on this machine, where the Coordinator runs that needs it: it would end at its start,
    after everything else has started."""
    directory = user.motor_coordinator_config.scheduler_config.tokenizer_path
    if directory and not is_file(Path(directory) / _TOKENIZER):
        yield Problem.error(
            file,
            "$.motor_coordinator_config.scheduler_config.tokenizer_path",
            f"there is no {_TOKENIZER} in {directory}",
            value=directory,
            suggestion=f"name a directory with the model's {_TOKENIZER}, or remove the key",
        )


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
