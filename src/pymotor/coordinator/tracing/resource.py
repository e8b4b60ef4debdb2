"""Who speaks: the resource of a worker's traces, by OpenTelemetry's semantic conventions and its environment."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from pymotor.coordinator.tracing.collector_client import pymotor_version
from pymotor.coordinator.tracing.otlp import Attributes

SERVICE = "pymotor-coordinator"
_SERVICE_NAME = "service.name"
_NAME_VARIABLE = "OTEL_SERVICE_NAME"
ATTRIBUTES_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"


def resource(worker: int, environment: Mapping[str, str]) -> Attributes:
    """Of the worker with this number. `OTEL_RESOURCE_ATTRIBUTES` goes before the service's name that is set here, and
    `OTEL_SERVICE_NAME` before both; each worker is an instance of its own, whatever they say."""
    said = dict(one for one in said_attributes(environment) if one is not None)
    name = environment.get(_NAME_VARIABLE, "")
    return {
        "telemetry.sdk.language": "python",
        # "opentelemetry" is kept for OpenTelemetry's own SDKs.
        "telemetry.sdk.name": "pymotor",
        "telemetry.sdk.version": pymotor_version(),
        _SERVICE_NAME: SERVICE,
        **said,
        **({_SERVICE_NAME: name} if name else {}),
        "service.instance.id": f"{socket.gethostname()}-worker-{worker}",
    }


def said_attributes(environment: Mapping[str, str]) -> Iterator[tuple[str, str] | None]:
    """Those of `OTEL_RESOURCE_ATTRIBUTES`, a list of `name=value` with commas between, the values percent-encoded;
    None for an entry that is no such thing."""
    for entry in environment.get(ATTRIBUTES_VARIABLE, "").split(","):
        name, is_one, value = (part.strip() for part in entry.partition("="))
        if is_one and name:
            yield name, unquote(value)
        elif entry.strip():
            yield None
