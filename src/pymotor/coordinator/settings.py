"""What a worker needs to know from `user_config.json`, flat and typed, as it travels to the worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.tls import ClientTLS, ServerTLS, TLSFiles, tls_files
from pymotor.coordinator.affinity.settings import AffinitySettings, affinity_settings
from pymotor.coordinator.limits.rate_settings import RateSettings
from pymotor.coordinator.tracing.switched_off import endpoint_in_use

if TYPE_CHECKING:
    # Workers read settings, never the configuration: they do without pydantic.
    from pymotor.config import UserConfig
    from pymotor.config.access import APIKeyConfig, RateLimitConfig
    from pymotor.config.deploy import TLSBlock
    from pymotor.config.observability import CoordinatorLoggingConfig, TracerConfig

_MEGABYTE = 1_000_000


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which web pages may call the gateway; without origins no CORS header is ever sent."""

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ("GET", "POST", "OPTIONS")
    allow_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    max_age: int = 600


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests run at once, and which wait."""

    encode: int | None = None
    prefill: int | None = None
    decode: int | None = None
    union: int | None = None
    max_queued: int = 1000
    queue_timeout: float = 60.0
    media_needs_kv_room: bool = True
    media_answer_tokens: int = 4096
    max_media_items: int = 1024


class RequestLogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A line for each request; sizes in bytes."""

    form: str = "off"
    """`off`, `text` or `json`."""
    directory: str = ""
    """Of the files, one for each worker; empty: lines go to standard error."""
    line_length: int = 8192
    """Characters."""
    rotation_size: int = 20_000_000
    rotation_count: int = 10
    """Old files of a worker."""
    total_size: int = 200_000_000
    """Of the files of all workers."""
    compress_level: int | None = None
    """Of old files; None: not compressed."""


class DashboardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """See `dashboard_config`."""

    enable: bool = True
    requests_per_second: float = 20.0


class TracingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """See `tracer_config`; ratios are parts of 1."""

    endpoint: str = ""
    """Empty: off."""
    root_ratio: float = 1.0
    """Of requests that come without a trace."""
    sampled_parent_ratio: float = 1.0
    """Of requests whose caller is sampled."""
    unsampled_parent_ratio: float = 1.0
    """Of requests whose caller is not."""
    steps_ratio: float = 1.0
    """Of the traces, those that have more than the request's own span."""


class KeySettings(msgspec.Struct, frozen=True, kw_only=True):
    """See `api_key_config`."""

    header_name: str = "Authorization"
    key_prefix: str = "Bearer "
    skip_paths: tuple[str, ...] = ()


class InferenceTLS(msgspec.Struct, frozen=True):
    """TLS of the inference port and toward engines."""

    files: TLSFiles
    client_auth: Literal["required", "optional", "none"] = "required"
    """Whether clients must show a certificate; engines always want one."""
    peer_name: str = ""
    """What engines' certificates name instead of their address."""

    def door(self) -> ServerTLS:
        """Toward clients. Raises `TLSError`."""
        return ServerTLS(self.files, mutual=self.client_auth != "none", insist=self.client_auth == "required")

    def to_engines(self) -> ClientTLS:
        """Toward engines. Raises `TLSError`."""
        return ClientTLS(self.files, peer_name=self.peer_name)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one Coordinator; times in seconds, sizes in bytes."""

    scheduler_type: str = "load_balance"
    deploy_mode: str | None = None
    """None: by the roles and connectors that are present."""
    callback_host: str = "127.0.0.1"
    """Where decode engines reach the workers' metaservers; empty where nobody knows."""
    metaserver_base_port: int = 0
    """Of the first worker's metaserver, the next one's is one higher; 0: any free port."""
    callbacks_at_inference_port: bool = False
    """Whether decode engines are told the port that clients use, which workers share, and not their worker's own."""
    prefill_threshold: int = 512
    """Prompts of at least so many tokens go through prefill and decode where union instances stand beside them."""
    tokenizer_path: str = ""
    """Directory of the tokenizer that counts prompts; empty: they are estimated."""
    affinity: AffinitySettings = AffinitySettings()
    engine_load_interval: float = 0.0
    """Seconds between readings of the engines' own load; 0: off."""
    metrics_reuse_time: float = 3.0
    """Seconds for which the engines' metrics are not asked for again."""
    limits: RequestLimits = RequestLimits()
    forward_media: str = "prefill"
    encode_fallback: str = "inline"
    reuse_seconds: float = 60.0
    """How long an encoded item is known to be in the store; 0: off."""
    reuse_bytes: int = 64 * 1024 * 1024
    hedge_after: float = 0.0
    """After how much silence of an encoder a second one gets the item; 0: off."""
    first_token_timeout: float = 600.0
    output_token_timeout: float = 1.0
    """Of a whole answer, for each token that it may have; 0: off."""
    infer_timeout: float = 3600.0
    connect_timeout: float = 5.0
    max_retry: int = 5
    """Further tries of a request."""
    transport_max_retry: int = 5
    """Further tries of one of its legs."""
    recompute_enabled: bool = True
    """Whether an answer that broke off, or that an engine wants computed again, is carried on elsewhere."""
    recompute_max_retry: int = 5
    engine_failure_max_retry: int = 1
    """Further tries after failures of which the request may be the cause."""
    retry_delay: float = 0.2
    retry_budget_ratio: float = 0.2
    retry_budget_floor: float = 10.0
    recovery_buffer_bytes: int = 1024 * 1024 * 1024
    circuit_failures: int = 5
    """Failures in a row that open an endpoint's circuit; 0: never."""
    circuit_pause: float = 1.0
    circuit_longest_pause: float = 60.0
    server_timing: bool = False
    body_limit_bytes: int = 512 * 1024 * 1024
    arriving_limit_bytes: int = 2 * 1024 * 1024 * 1024
    header_limit_bytes: int = 65536
    header_timeout: float = 30.0
    body_idle_timeout: float = 60.0
    stream_idle_timeout: float = 600.0
    stream_keepalive: float = 0.0
    trust_client_fields: bool = False
    forward_headers: tuple[str, ...] = ()
    forward_authorization: bool = False
    engine_api_key_env: str = ""
    """Where a worker finds the engines' key, which is nowhere else."""
    cors: CorsSettings = CorsSettings()
    request_log: RequestLogSettings = RequestLogSettings()
    dashboard: DashboardSettings = DashboardSettings()
    tracing: TracingSettings = TracingSettings()
    keys: KeySettings | None = None
    """None: nobody needs a key."""
    rates: RateSettings | None = None
    """None: no limits."""
    tls: InferenceTLS | None = None
    """None: clients speak plain HTTP, and so do engines."""


def settings_from(
    user: UserConfig,
    *,
    server_timing: bool | None = None,
    callback_host: str = "127.0.0.1",
    environment: Mapping[str, str] = os.environ,
    directory: Path = Path(),
    conductor_tls: PlaneTLS | None = None,
) -> Settings:
    """The settings in a user configuration; `server_timing` of the command line wins over the file's, and
    `callback_host` is where engines reach the Coordinator. `environment` says where a KV Conductor is, and
    `conductor_tls` how it is known where management speaks TLS; the configuration's relative paths begin at
    `directory`."""
    coordinator = user.motor_coordinator_config
    scheduler = coordinator.scheduler_config
    exceptions = coordinator.exception_config
    http = coordinator.http_config
    encode = coordinator.encode_config
    limits = coordinator.request_limit
    return Settings(
        scheduler_type=scheduler.scheduler_type,
        deploy_mode=scheduler.deploy_mode,
        callback_host=callback_host,
        metaserver_base_port=coordinator.inference_workers_config.worker_metaserver_base_port,
        prefill_threshold=scheduler.prefill_threshold,
        tokenizer_path=str(directory / scheduler.tokenizer_path) if scheduler.tokenizer_path else "",
        affinity=affinity_settings(user, environment, conductor_tls, directory),
        engine_load_interval=float(scheduler.engine_load_interval),
        metrics_reuse_time=float(coordinator.prometheus_metrics_config.reuse_time),
        limits=RequestLimits(
            encode=limits.max_running.encode,
            prefill=limits.max_running.prefill,
            decode=limits.max_running.decode,
            union=limits.max_running.union,
            max_queued=limits.max_queued,
            queue_timeout=float(limits.queue_timeout),
            media_needs_kv_room=limits.media_needs_kv_room,
            media_answer_tokens=limits.media_answer_tokens,
            max_media_items=limits.max_media_items,
        ),
        forward_media=encode.forward_media,
        encode_fallback=encode.fallback,
        reuse_seconds=float(encode.reuse_seconds),
        reuse_bytes=encode.reuse_bytes,
        hedge_after=float(encode.hedge_after),
        first_token_timeout=float(exceptions.first_token_timeout),
        output_token_timeout=float(exceptions.output_token_timeout),
        infer_timeout=float(exceptions.infer_timeout),
        max_retry=exceptions.max_retry,
        transport_max_retry=_stated(exceptions.transport_max_retry, exceptions.max_retry),
        recompute_enabled=exceptions.recompute_enabled,
        recompute_max_retry=_stated(exceptions.recompute_max_retry, exceptions.max_retry),
        engine_failure_max_retry=exceptions.engine_failure_max_retry,
        retry_delay=float(exceptions.retry_delay),
        retry_budget_ratio=float(exceptions.retry_budget_ratio),
        retry_budget_floor=float(exceptions.retry_budget_floor),
        recovery_buffer_bytes=exceptions.recovery_buffer_bytes,
        circuit_failures=exceptions.circuit_failures,
        circuit_pause=float(exceptions.circuit_pause),
        circuit_longest_pause=float(exceptions.circuit_longest_pause),
        server_timing=http.server_timing == "on" if server_timing is None else server_timing,
        body_limit_bytes=http.body_limit_bytes,
        arriving_limit_bytes=http.arriving_limit_bytes,
        header_limit_bytes=http.header_limit_bytes,
        header_timeout=http.header_timeout,
        body_idle_timeout=http.body_idle_timeout,
        stream_idle_timeout=http.stream_idle_timeout,
        stream_keepalive=http.stream_keepalive,
        trust_client_fields=http.trust_client_fields,
        forward_headers=tuple(http.forward_headers),
        forward_authorization=http.forward_authorization,
        engine_api_key_env=http.engine_api_key_env,
        cors=CorsSettings(
            allow_origins=tuple(http.cors.allow_origins),
            allow_methods=tuple(http.cors.allow_methods),
            allow_headers=tuple(http.cors.allow_headers),
            allow_credentials=http.cors.allow_credentials,
            max_age=http.cors.max_age,
        ),
        request_log=_request_log(coordinator.logging_config),
        dashboard=DashboardSettings(
            enable=coordinator.dashboard_config.enable,
            requests_per_second=float(coordinator.dashboard_config.requests_per_second),
        ),
        tracing=_tracing(coordinator.tracer_config, environment),
        keys=_keys(coordinator.api_key_config),
        rates=_rates(coordinator.rate_limit_config),
        tls=_tls(user.motor_deploy_config.tls_config.infer_tls_config, directory),
    )


def _tls(block: TLSBlock, directory: Path) -> InferenceTLS | None:
    files = tls_files(block, directory)
    return InferenceTLS(files, block.client_auth, block.peer_name) if files is not None else None


def _request_log(logs: CoordinatorLoggingConfig) -> RequestLogSettings:
    return RequestLogSettings(
        form=logs.request_log,
        directory=logs.request_log_directory,
        line_length=logs.log_max_line_length,
        rotation_size=logs.log_rotation_size * _MEGABYTE,
        rotation_count=logs.log_rotation_count,
        total_size=logs.log_max_total_size * _MEGABYTE,
        compress_level=logs.log_compress_level if logs.log_compress else None,
    )


def _tracing(config: TracerConfig, environment: Mapping[str, str]) -> TracingSettings:
    return TracingSettings(
        endpoint=endpoint_in_use(config.endpoint, environment),
        root_ratio=config.root_sampling_rate,
        sampled_parent_ratio=config.remote_parent_sampled,
        unsampled_parent_ratio=config.remote_parent_not_sampled,
        steps_ratio=config.local_parent_sampled,
    )


def _keys(config: APIKeyConfig) -> KeySettings | None:
    if not config.enable_api_key:
        return None
    return KeySettings(
        header_name=config.header_name, key_prefix=config.key_prefix, skip_paths=tuple(config.skip_paths)
    )


def _rates(config: RateLimitConfig) -> RateSettings | None:
    if not config.enable_rate_limit:
        return None
    return RateSettings(
        window=float(config.window_size),
        max_requests=config.max_requests,
        max_tokens=config.max_tokens,
        key_max_requests=config.key_max_requests,
        key_max_tokens=config.key_max_tokens,
        skip_paths=tuple(config.skip_paths),
        message=config.error_message,
        status=config.error_status_code,
    )


def _stated(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def worker_count(user: UserConfig) -> int:
    """How many worker processes: `num_workers`, or one for each two processors, at least 1 and at most 4."""
    stated = user.motor_coordinator_config.inference_workers_config.num_workers
    if stated is not None:
        return stated
    return max(1, min(4, (os.cpu_count() or 1) // 2))
