"""Where engines may publish KV events, so that the conductor's pod reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from pymotor.config import Problem, UserConfig
from pymotor.config.checks.services import events_of
from pymotor.control_plane import is_loopback

_PORTS = {"endpoint": 5557, "replay_endpoint": 6667}


def event_endpoints(user: UserConfig, file: str) -> Iterator[Problem]:
    """vLLM listens for subscribers at endpoints with `*` or `::`, and connects to all others; replay always listens."""
    conductor = user.kv_conductor_config
    if (
        conductor is None
        or not conductor.http_server_port
        or user.motor_deploy_config.deploy_mode == "single_container"
    ):
        return
    for role in ("prefill", "decode", "union"):
        section = user.engine_section(role)
        if section is None or not user.instance_count(role):
            continue
        events = events_of(section)
        for key, port in _PORTS.items():
            endpoint = events.get(key) if events is not None else None
            if not isinstance(endpoint, str) or not endpoint:
                continue
            if _local(endpoint) or (key == "endpoint" and "*" not in endpoint and "::" not in endpoint):
                yield Problem.warning(
                    file,
                    f"$.motor_engine_{role}_config.engine_config.{section.written('kv_events_config')}.{key}",
                    "the conductor's pod cannot reach it: engines listen for other pods at tcp://* only",
                    value=endpoint,
                    suggestion=f'write "tcp://*:{port}"',
                )


def _local(endpoint: str) -> bool:
    """Whether nobody outside the pod reaches it."""
    if not endpoint.startswith("tcp://"):
        return True
    try:
        host = urlsplit(endpoint).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or is_loopback(host)
