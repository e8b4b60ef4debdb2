"""What limits requests and tokens, as it travels to the workers."""

from __future__ import annotations

import msgspec


class RateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """See `rate_limit_config`; `window` in seconds, None: no limit."""

    window: float = 60.0
    max_requests: int | None = 1000
    max_tokens: int | None = None
    key_max_requests: int | None = None
    key_max_tokens: int | None = None
    skip_paths: tuple[str, ...] = ()
    message: str = "too many requests, please try again later"
    status: int = 429
