"""The Coordinator's HTTP server: limits, web pages that may call, addresses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pymotor.config.section import AtLeastOne, Count, Host, NotNegative, Port, Seconds, Section


class CORSConfig(Section):
    """Which web pages may call."""

    allow_origins: list[str] = Field(default_factory=list, description="Origins; * for any.")
    allow_methods: list[str] = Field(default_factory=lambda: ["GET", "POST", "OPTIONS"], description="Methods.")
    allow_headers: list[str] = Field(default_factory=lambda: ["*"], description="Request headers; * for any.")
    allow_credentials: bool = Field(False, description="Whether cookies may be sent.")
    max_age: Count = Field(600, description="Seconds for which a browser remembers the answer.")


class HTTPConfig(Section):
    """The HTTP server for clients."""

    server_timing: Literal["on", "off"] = Field("off", description="Whether answers name their legs and times.")
    body_limit_bytes: AtLeastOne = Field(536870912, description="Longest request body.")
    arriving_limit_bytes: AtLeastOne = Field(
        2147483648, description="Bytes that bodies still arriving at one worker may have together; beyond it 503."
    )
    header_limit_bytes: AtLeastOne = Field(65536, description="Longest request head.")
    header_timeout: Seconds = Field(30.0, description="Seconds until a request's head is there.")
    body_idle_timeout: Seconds = Field(
        60.0,
        description="Seconds of silence within a request's body, or in which a client takes nothing of its answer.",
    )
    stream_idle_timeout: Seconds = Field(600.0, description="Seconds of silence within an engine's stream.")
    stream_keepalive: NotNegative = Field(0.0, description="Seconds after which a comment keeps a stream open; 0: off.")
    trust_client_fields: bool = Field(False, description="Whether clients may name caches, embeddings and engines.")
    forward_headers: list[str] = Field(
        default_factory=list, description="Headers of clients that engines get beside those in docs/api.md."
    )
    forward_authorization: bool = Field(False, description="Whether engines get the client's Authorization.")
    engine_api_key_env: str = Field(
        "", description="Environment variable with the key of engines started with --api-key; empty: none."
    )
    cors: CORSConfig = Field(default_factory=CORSConfig, description="Which web pages may call.")


class CoordinatorAPIConfig(Section):
    """Where the Coordinator listens."""

    coordinator_api_host: Host | None = Field(None, description="Address to listen on; default: the pod's.")
    coordinator_api_dns: str | None = Field(None, description="Name for management.")
    coordinator_api_infer_dns: str | None = Field(None, description="Name for clients.")
    coordinator_api_obs_dns: str | None = Field(None, description="Name for metrics.")
    coordinator_api_infer_port: Port = Field(1025, description="Port for clients.")
    coordinator_api_mgmt_port: Port = Field(1026, description="Port for management.")
    coordinator_obs_port: Port = Field(1027, description="Port for metrics.")
