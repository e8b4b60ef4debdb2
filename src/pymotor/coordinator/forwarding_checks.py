"""Whether the headers that a configuration has forwarded to engines can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pymotor.config import Problem, UserConfig
from pymotor.coordinator.api.forwarding import Forwarding, is_forwardable

_HTTP = "$.motor_coordinator_config.http_config"


def check_forwarding(user: UserConfig, file: str, environment: Mapping[str, str]) -> Iterator[Problem]:
    """The problems, for the configuration read from `file`; `environment` is that of the workers."""
    http = user.motor_coordinator_config.http_config
    for index, name in enumerate(http.forward_headers):
        if not is_forwardable(name):
            yield Problem.error(
                file,
                f"{_HTTP}.forward_headers[{index}]",
                "this header is never forwarded",
                value=name,
                allowed="names of headers that are neither the gateway's own, hop-by-hop, nor secrets",
                suggestion="forward_authorization passes Authorization on"
                if name.lower() == "authorization"
                else "leave it out",
            )
    variable = http.engine_api_key_env
    if not variable:
        return
    path = f"{_HTTP}.engine_api_key_env"
    key = environment.get(variable, "")
    if not key:
        yield Problem.error(
            file,
            path,
            "there is no such environment variable, or it is empty: engines would refuse every request",
            value=variable,
            suggestion=f"set {variable} where the Coordinator starts, from a secret",
        )
        return
    try:
        Forwarding(engine_key=key)
    except ValueError as error:
        yield Problem.error(file, path, str(error), value=variable, suggestion="set it without quotes and line ends")
    if http.forward_authorization:
        yield Problem.warning(
            file,
            f"{_HTTP}.forward_authorization",
            "no effect beside engine_api_key_env: engines get that key",
            value=True,
        )
