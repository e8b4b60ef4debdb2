"""What a Coordinator has to say against a configuration: at its start, when the file changes, and in `validate`.

What is wrong by itself is an error wherever it is asked. What this machine lacks is one for the Coordinator, which runs
here, and a warning for `validate`, since the Coordinator may run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pymotor.config import Problem, UserConfig
from pymotor.config.deploy import TLSBlock
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.tls import TLSError
from pymotor.coordinator.forwarding_checks import check_forwarding
from pymotor.coordinator.keys.keys_file import KeysFileError, read_keys
from pymotor.coordinator.log_checks import check_request_log
from pymotor.coordinator.looking import is_there
from pymotor.coordinator.not_served import not_served
from pymotor.coordinator.tracing.checks import TRACES_TO, check_tracing, check_tracing_files

PLANES = ("infer_tls_config", "mgmt_tls_config", "observability_tls_config")
"""Those that a Coordinator speaks."""
_TLS = "$.motor_deploy_config.tls_config"
_KEYS_FILE = "$.motor_coordinator_config.api_key_config.keys_file"
_FORWARDED = "$.motor_coordinator_config.http_config.forward_headers"
_ELSEWHERE = "on this machine; see that it is there where the Coordinator runs"


def check_settings(user: UserConfig, file: str, environment: Mapping[str, str]) -> list[Problem]:
    """The problems but for those of `check_files`; `environment` is that of the workers."""
    return [
        *not_served(user, file),
        *check_forwarding(user, file, environment),
        *check_tracing(user, file, environment),
        *check_request_log(user, file),
    ]


def check_files(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Keys and certificates, read as the Coordinator reads them; relative names begin where `file` is, those of
    `environment` where the process does."""
    keys = user.motor_coordinator_config.api_key_config
    if keys.enable_api_key and keys.keys_file:
        try:
            read_keys(Path(file).parent / keys.keys_file)
        except KeysFileError as error:
            yield Problem.error(file, _KEYS_FILE, str(error), value=keys.keys_file)
    for plane in PLANES:
        certificates = PlaneTLS.of(_block(user, plane), Path(file).parent)
        if certificates is None:
            continue
        try:
            certificates.server()
            certificates.client()
        except TLSError as error:
            yield Problem.error(file, f"{_TLS}.{plane}", str(error))
    yield from check_tracing_files(user, file, environment)


def check_for_elsewhere(user: UserConfig, file: str, environment: Mapping[str, str]) -> list[Problem]:
    """All of these, for a Coordinator that may run on another machine, with `environment` at least."""
    directory = Path(file).parent
    problems = [
        _doubtful(one) if one.severity == "error" and not _wrong_anywhere(one) else one
        for one in check_settings(user, file, environment)
    ]
    keys = user.motor_coordinator_config.api_key_config
    for one in check_files(user, file, environment):
        if one.path == TRACES_TO:
            problems.append(one if isinstance(one.value, str) and is_there(Path(one.value)) else _doubtful(one))
        elif one.path == _KEYS_FILE:
            problems.append(one if is_there(directory / keys.keys_file) else _doubtful(one))
        elif _all_there(_block(user, one.path.rpartition(".")[2]), directory):
            problems.append(one)
        # That certificates are not here is told by the checks of the configuration itself.
    return problems


def _wrong_anywhere(problem: Problem) -> bool:
    return problem.path.startswith((_FORWARDED, "$.motor_coordinator_config.tracer_config"))


def _doubtful(problem: Problem) -> Problem:
    return replace(problem, severity="warning", message=f"{problem.message}: {_ELSEWHERE}")


def _all_there(block: TLSBlock, directory: Path) -> bool:
    named = [name for name in (block.ca_file, block.cert_file, block.key_file, block.crl_file) if name]
    return all(is_there(directory / name) for name in named)


def _block(user: UserConfig, plane: str) -> TLSBlock:
    found: TLSBlock = getattr(user.motor_deploy_config.tls_config, plane)
    return found
