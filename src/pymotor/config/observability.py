"""What the Coordinator shows of itself: logs, metrics, traces, the dashboard."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pymotor.config.common import LoggingConfig
from pymotor.config.section import NotNegative, Ratio, Seconds, Section


class CoordinatorLoggingConfig(LoggingConfig):
    """Logs of the Coordinator, and a line for each request."""

    request_log: Literal["off", "text", "json"] = Field("off", description="Whether each request gets a line, and how.")
    request_log_directory: str = Field(
        "",
        description="Directory of the files with these lines, one for each worker, rotated as log_rotation_size and "
        "the keys beside it say; empty: standard error.",
    )


class PrometheusMetricsConfig(Section):
    """Metrics of the fleet."""

    reuse_time: Seconds = Field(3, description="Seconds for which collected metrics are reused.")
    pool_metrics_enable: bool = Field(False, description="Whether the KV pool's metrics are collected too.")
    pool_metrics_endpoint: str = Field("", description="URL of the KV pool's metrics.")


class TracerConfig(Section):
    """OpenTelemetry traces. Rates are parts of all requests, from 0 to 1."""

    endpoint: str = Field("", description="URL that takes OTLP over HTTP, with or without /v1/traces; empty: off.")
    root_sampling_rate: Ratio = Field(1.0, description="Of requests that come without a trace.")
    remote_parent_sampled: Ratio = Field(1.0, description="Of requests whose caller is sampled.")
    remote_parent_not_sampled: Ratio = Field(1.0, description="Of requests whose caller is not sampled.")
    local_parent_sampled: Ratio = Field(1.0, description="Of sampled requests, those with steps, too.")
    local_parent_not_sampled: Ratio = Field(
        1.0, description="No effect: a request that is not sampled has no steps that are."
    )


class DashboardConfig(Section):
    """The dashboard at the management port."""

    enable: bool = Field(True, description="Whether the management port serves /dashboard.")
    requests_per_second: NotNegative = Field(
        20.0, description="Requests that each worker follows step by step for it; 0: none."
    )
