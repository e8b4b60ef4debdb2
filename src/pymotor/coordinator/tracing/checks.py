"""Whether `tracer_config`, and what the environment says of OTLP beside it, can be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pymotor.config import ABSENT, Problem, UserConfig
from pymotor.coordinator.tracing.collector_client import UnusableFile, tls_context
from pymotor.coordinator.tracing.collector_settings import collector_settings
from pymotor.coordinator.tracing.resource import ATTRIBUTES_VARIABLE, said_attributes

_TRACER = "$.motor_coordinator_config.tracer_config"
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_GRPC_PORT = 4317


def check_tracing(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """The problems, for the configuration read from `file`; `environment` is that of the workers."""
    endpoint = user.motor_coordinator_config.tracer_config.endpoint
    if not endpoint:
        return
    path = f"{_TRACER}.endpoint"
    suggestion = "name an OTLP receiver over HTTP, such as http://collector:4318"
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as error:
        yield Problem.error(file, path, f"it is no URL: {error}", value=endpoint, suggestion=suggestion)
        return
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Problem.error(file, path, "it is no http or https URL", value=endpoint, suggestion=suggestion)
        return
    variable = next((name for name in _PROTOCOL_VARIABLES if environment.get(name)), "")
    if variable and environment[variable] != _SPOKEN:
        yield Problem.warning(
            file,
            path,
            f"traces are sent by {_SPOKEN} all the same, though {variable} asks for something else",
            value=environment[variable],
            suggestion=f"set {variable}={_SPOKEN} for the Coordinator, with the collector's port for that, 4318 mostly",
        )
    elif port == _GRPC_PORT:
        yield Problem.warning(
            file,
            path,
            f"{_GRPC_PORT} is the port of OTLP over gRPC mostly, and traces are sent by {_SPOKEN}",
            value=endpoint,
            suggestion="see whether the collector takes that at 4318",
        )
    yield from _check_variables(endpoint, file, path, environment)


def _check_variables(endpoint: str, file: str, path: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    settings, troubles = collector_settings(endpoint, environment)
    for trouble in troubles:
        value = ABSENT if trouble.value is None else trouble.value
        yield Problem.warning(file, path, trouble.message, value=value, suggestion=trouble.suggestion)
    broken = sum(one is None for one in said_attributes(environment))
    if broken:
        yield Problem.warning(
            file,
            path,
            f"entries of {ATTRIBUTES_VARIABLE} are left out that are no attributes: {broken}",
            suggestion="write name=value, with commas between and the values percent-encoded",
        )
    try:
        tls_context(settings)
    except UnusableFile as error:
        yield Problem.error(
            file,
            path,
            f"no trace can be sent: what {error.variable} names cannot be used: {error.why}",
            value=error.path or ABSENT,
            suggestion="name a PEM file that this user may read; a client's certificate goes with its key",
        )
