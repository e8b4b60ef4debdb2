"""Who may send requests to the Coordinator, and how many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pymotor.config.section import AtLeastOne, Seconds, Section, no_effect

HEALTH_PATHS = ("/", "/startup", "/readiness", "/liveness", "/health", "/metrics", "/docs", "/redoc", "/openapi.json")


class APIKeyConfig(Section):
    """Who may send requests, and look at the other ports."""

    enable_api_key: bool = Field(False, description="Whether a key is asked for.")
    valid_keys: list[str] = Field(default_factory=list, description="Hashes of the keys, as encryption_algorithm.")
    header_name: Annotated[str, Field(min_length=1)] = Field("Authorization", description="Header with the key.")
    key_prefix: Annotated[str, Field(min_length=1)] = Field("Bearer ", description="What stands before the key.")
    keys_file: str = Field(
        "",
        description="File of `pymotor api-key`, from the directory of user_config.json; read again when it changes.",
    )
    skip_paths: list[str] = Field(
        default_factory=lambda: [*HEALTH_PATHS, "/instances/refresh", "/favicon.ico"],
        description="Paths of the inference port that need no key, compared byte for byte.",
    )
    open_doors: list[Literal["management", "observability"]] = Field(
        default_factory=list,
        description="Ports at which anybody who reaches them may read (GET), also without enable_api_key.",
    )
    encryption_algorithm: Literal["PBKDF2_SHA256"] = Field("PBKDF2_SHA256", description="How keys are hashed.")


class RateLimitConfig(Section):
    """How many requests are let in."""

    enable_rate_limit: bool = Field(False, description="Whether requests are limited.")
    provider: Literal["simple", "olc"] = Field("simple", description="Who decides; olc: simple is used.")
    max_requests: AtLeastOne = Field(1000, description="Requests in a window, of all clients together.")
    max_tokens: AtLeastOne | None = Field(
        None, description="Tokens of prompts and answers in a window, of all clients together; null: no limit."
    )
    key_max_requests: AtLeastOne | None = Field(
        None, description="Requests in a window of each API key that has no limit of its own; null: no limit."
    )
    key_max_tokens: AtLeastOne | None = Field(None, description="Tokens in a window, likewise.")
    window_size: Seconds = Field(60, description="Seconds of a window.")
    skip_paths: list[str] = Field(
        default_factory=lambda: [*HEALTH_PATHS], description="Paths without limit, compared byte for byte."
    )
    error_message: str = Field("too many requests, please try again later", description="What the client is told.")
    error_status_code: Annotated[int, Field(ge=100, le=599)] = Field(429, description="Status the client gets.")
    olc_config_path: str = Field("", description="Directory of the olc provider's configuration.")
    scope: Any = no_effect("limits are for all clients together and for each key", instead="key_max_requests")
