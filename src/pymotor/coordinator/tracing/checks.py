"""Whether `tracer_config`, and what the environment says of OTLP beside it, can be done."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pymotor.config import ABSENT, Problem, UserConfig
from pymotor.coordinator.tracing.collector_settings import can_be_asked, collector_settings
from pymotor.coordinator.tracing.resource import ATTRIBUTES_VARIABLE, said_attributes
from pymotor.coordinator.tracing.switched_off import endpoint_in_use
from pymotor.coordinator.tracing.tls_files import UnusableFile, tls_context

TRACES_TO = "$.motor_coordinator_config.tracer_config.endpoint"
"""The path of all these problems."""
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_GRPC_PORT = 4317


def check_tracing(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """The problems but for those of `check_tracing_files`, for the configuration read from `file`; `environment` is
    that of the workers."""
    endpoint = endpoint_in_use(user.motor_coordinator_config.tracer_config.endpoint, environment)
    if not endpoint:
        return
    why = _unusable(endpoint)
    if why:
        suggestion = "name an OTLP receiver over HTTP, such as http://collector:4318"
        yield Problem.error(file, TRACES_TO, why, value=_shown(endpoint), suggestion=suggestion)
        return
    yield from _check_protocol(endpoint, file, environment)
    for trouble in collector_settings(endpoint, environment)[1]:
        value = ABSENT if trouble.value is None else trouble.value
        yield Problem.warning(file, TRACES_TO, trouble.message, value=value, suggestion=trouble.suggestion)
    broken = sum(one is None for one in said_attributes(environment))
    if broken:
        yield Problem.warning(
            file,
            TRACES_TO,
            f"entries of {ATTRIBUTES_VARIABLE} are left out that are no attributes: {broken}",
            suggestion="write name=value, with commas between and the values percent-encoded",
        )


def check_tracing_files(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """The same for certificates and keys, which are read; the value of a problem is the file's path."""
    endpoint = endpoint_in_use(user.motor_coordinator_config.tracer_config.endpoint, environment)
    if not endpoint or _unusable(endpoint):
        return
    try:
        tls_context(collector_settings(endpoint, environment)[0])
    except UnusableFile as error:
        yield Problem.error(
            file,
            TRACES_TO,
            f"no trace can be sent: what {error.file.variable} names cannot be used: {error.why}",
            value=error.file.path or ABSENT,
            suggestion="name a PEM file that this user may read; a client's certificate goes with its key",
        )


def _unusable(endpoint: str) -> str:
    """Why nothing can be sent to this; empty where that is not known."""
    try:
        parts = urlsplit(endpoint)
        # Reading the port is what finds it broken; what is said then quotes it, and may quote a password.
        _ = parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "it is no http or https URL"
    return "" if can_be_asked(endpoint) else "it is no URL that can be asked: its host or path is none"


def _check_protocol(endpoint: str, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    variable = next((name for name in _PROTOCOL_VARIABLES if environment.get(name)), "")
    if variable and environment[variable] != _SPOKEN:
        yield Problem.warning(
            file,
            TRACES_TO,
            f"traces are sent by {_SPOKEN} all the same, though {variable} asks for something else",
            value=environment[variable],
            suggestion=f"set {variable}={_SPOKEN} for the Coordinator, with the collector's port for that, 4318 mostly",
        )
    elif urlsplit(endpoint).port == _GRPC_PORT:
        yield Problem.warning(
            file,
            TRACES_TO,
            f"{_GRPC_PORT} is the port of OTLP over gRPC mostly, and traces are sent by {_SPOKEN}",
            value=_shown(endpoint),
            suggestion="see whether the collector takes that at 4318",
        )


def _shown(endpoint: str) -> str:
    """Without user, password and query, for what is no URL too."""
    return _QUERY.sub("?***", _USER.sub(r"\1***@", endpoint))
