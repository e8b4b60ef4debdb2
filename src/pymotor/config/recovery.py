"""When a leg of a request is tried again, and how long a request may take."""

from __future__ import annotations

from pydantic import Field

from pymotor.config.section import Count, NotNegative, Seconds, Section


class ExceptionConfig(Section):
    """When a leg of a request is tried again, and how long a request may take."""

    max_retry: Count = Field(5, description="Further tries; the default of the next two.")
    recompute_enabled: bool = Field(True, description="Whether a broken answer is carried on elsewhere.")
    transport_max_retry: Count | None = Field(None, description="Further tries of one leg; null: max_retry.")
    recompute_max_retry: Count | None = Field(None, description="Times an answer is carried on; null: max_retry.")
    engine_failure_max_retry: Count = Field(
        1, description="Further tries after resets, time-outs and 5xx but 503: the request may be what caused them."
    )
    retry_delay: Seconds = Field(0.2, description="Seconds before the first new try, doubled each time.")
    first_token_timeout: Seconds = Field(600, description="Seconds until the first token.")
    output_token_timeout: NotNegative = Field(
        1.0,
        description="Seconds that a whole answer may take for each token it may have, beside first_token_timeout; "
        "0: only infer_timeout counts.",
    )
    infer_timeout: Seconds = Field(3600, description="Seconds for the whole request.")
    retry_budget_ratio: NotNegative = Field(
        0.2, description="Further tries of a process, as a part of its requests of the last 10 seconds."
    )
    retry_budget_floor: NotNegative = Field(10.0, description="Further tries a second that are allowed in any case.")
    recovery_buffer_bytes: Count = Field(
        1073741824, description="Bytes of request bodies that a process keeps for further tries; 0: none."
    )
    circuit_failures: Count = Field(
        5, description="Failures of an endpoint in a row that open its circuit; 0: circuits never open."
    )
    circuit_pause: Seconds = Field(1.0, description="Seconds until an open circuit is probed, doubled each time.")
    circuit_longest_pause: Seconds = Field(60.0, description="Longest pause between probes, in seconds.")
