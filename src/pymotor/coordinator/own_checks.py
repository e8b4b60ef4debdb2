"""What a Coordinator has to say against a configuration: at its start, when the file changes, and in `validate`.

What is wrong by itself is an error wherever it is asked. What this machine lacks, or this user may not read, is one for
the Coordinator, which runs here, and a warning for `validate`, since the Coordinator may run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pymotor.config import Problem, UserConfig
from pymotor.config.deploy import TLSBlock
from pymotor.control_plane.path_checks import is_readable, is_there
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.tls import ForbiddenFileError, TLSError
from pymotor.coordinator.affinity.prompt_checks import found_in_prompt_files
from pymotor.coordinator.affinity.prompt_files import TOKENIZER_KEY
from pymotor.coordinator.forwarding_checks import check_forwarding
from pymotor.coordinator.keys.keys_file import KeysFileError, KeysOutOfReachError, read_keys
from pymotor.coordinator.log_checks import check_request_log
from pymotor.coordinator.not_served import not_served
from pymotor.coordinator.prompts.model_files import has_library
from pymotor.coordinator.tracing.checks import check_tracing, check_tracing_files

PLANES = ("infer_tls_config", "mgmt_tls_config", "observability_tls_config")
"""Those that a Coordinator speaks."""
_TLS = "$.motor_deploy_config.tls_config"
_KEYS_FILE = "$.motor_coordinator_config.api_key_config.keys_file"
_ENGINE_KEY = "$.motor_coordinator_config.http_config.engine_api_key_env"
_FORWARDED = "$.motor_coordinator_config.http_config.forward_headers"
_ELSEWHERE = "that depends on this machine and this user; see that it is right where the Coordinator runs"


def check_settings(user: UserConfig, file: str, environment: Mapping[str, str]) -> list[Problem]:
    """The problems but for those of `check_files`; `environment` is that of the workers."""
    return [
        *not_served(user, file),
        *check_forwarding(user, file, environment),
        *check_tracing(user, file, environment),
        *check_request_log(user, file),
    ]


def check_files(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Keys, certificates, tokenizer and chat template, read as the Coordinator reads them; relative names begin where
    `file` is, those of the engines' options and of `environment` where the process does."""
    for problem, _ in _found_in_files(user, file, environment):
        yield problem


def check_for_elsewhere(user: UserConfig, file: str, environment: Mapping[str, str]) -> list[Problem]:
    """All of these, for a Coordinator that may run on another machine, or as another user, with `environment` at
    least."""
    problems = [
        one if one.severity != "error" or _wrong_anywhere(one, environment) else _doubtful(one)
        for one in check_settings(user, file, environment)
    ]
    directory = Path(file).parent
    for one, wrong_anywhere in _found_in_files(user, file, environment):
        plane = one.path.removeprefix(f"{_TLS}.")
        if plane in PLANES and not _all_there(_block(user, plane), directory):
            continue  # told by the checks of the configuration itself
        problems.append(one if wrong_anywhere else _doubtful(one))
    return problems


def _found_in_files(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[tuple[Problem, bool]]:
    """Each problem, and whether it is one on every machine and for every user."""
    keys = user.motor_coordinator_config.api_key_config
    if keys.enable_api_key and keys.keys_file:
        try:
            read_keys(Path(file).parent / keys.keys_file)
        except KeysFileError as error:
            problem = Problem.error(file, _KEYS_FILE, str(error), value=keys.keys_file)
            yield problem, not isinstance(error, KeysOutOfReachError)
    for plane in PLANES:
        certificates = PlaneTLS.of(_block(user, plane), Path(file).parent)
        if certificates is None:
            continue
        try:
            certificates.server()
            certificates.client()
        except TLSError as error:
            yield Problem.error(file, f"{_TLS}.{plane}", str(error)), not isinstance(error, ForbiddenFileError)
    # A tokenizer that is not there is told by `check_settings`.
    yield from found_in_prompt_files(user, file)
    for problem in check_tracing_files(user, file, environment):
        yield problem, isinstance(problem.value, str) and is_readable(Path(problem.value))


def _wrong_anywhere(problem: Problem, environment: Mapping[str, str]) -> bool:
    if problem.path == _ENGINE_KEY:
        # A variable that is not here may be there; one with a key that is none will not be better there.
        return bool(environment.get(str(problem.value)))
    if problem.path == TOKENIZER_KEY:
        # A directory that is here and holds no tokenizer.
        return has_library() and is_readable(Path(problem.file).parent / str(problem.value))
    return problem.path.startswith((_FORWARDED, "$.motor_coordinator_config.tracer_config"))


def _doubtful(problem: Problem) -> Problem:
    return replace(problem, severity="warning", message=f"{problem.message} ({_ELSEWHERE})")


def _all_there(block: TLSBlock, directory: Path) -> bool:
    named = [name for name in (block.ca_file, block.cert_file, block.key_file, block.crl_file) if name]
    return all(is_there(directory / name) for name in named)


def _block(user: UserConfig, plane: str) -> TLSBlock:
    found: TLSBlock = getattr(user.motor_deploy_config.tls_config, plane)
    return found
