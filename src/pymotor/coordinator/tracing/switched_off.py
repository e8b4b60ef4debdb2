"""Whether traces are made at all."""

from __future__ import annotations

from collections.abc import Mapping


def endpoint_in_use(endpoint: str, environment: Mapping[str, str]) -> str:
    """The endpoint of `tracer_config`; empty where `OTEL_SDK_DISABLED` turns tracing off."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return "" if disabled else endpoint
