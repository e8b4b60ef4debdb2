"""Limits on requests and tokens in a window: of all clients together, and of each key."""

from __future__ import annotations

from pymotor.coordinator.api.errors import RATE_LIMIT_CODE, ApiError
from pymotor.coordinator.keys.api_key import ApiKey
from pymotor.coordinator.keys.key_source import PLACES
from pymotor.coordinator.limits.buckets import Buckets
from pymotor.coordinator.limits.rate_settings import RateSettings

_ALL_REQUESTS, _ALL_TOKENS, _FIRST_KEY = range(3)
BUCKETS = _FIRST_KEY + 2 * PLACES
"""How many there are."""


class RateLimits:
    """Takes from the buckets what requests cost."""

    __slots__ = ("_buckets", "_settings", "_window")

    def __init__(self, buckets: Buckets, settings: RateSettings) -> None:
        self._buckets = buckets
        self._settings = settings
        self._window = settings.window

    def use(self, settings: RateSettings) -> None:
        """So much is allowed from now on, and refused in these words; the window stays. What a client has used of its
        share stays used."""
        self._settings = settings

    def take_request(self, key: ApiKey | None) -> None:
        """One request more. Raises `ApiError` where the key, or all together, have had enough."""
        settings = self._settings
        of_key, place = None, _FIRST_KEY
        if key is not None:
            of_key = settings.key_max_requests if key.max_requests is None else key.max_requests
            place += 2 * key.place
        self._take(place, of_key, _ALL_REQUESTS, settings.max_requests, 1, "requests")

    def take_tokens(self, key: ApiKey | None, tokens: int) -> None:
        """So many tokens more; likewise."""
        place, of_key = self._tokens_of(key)
        self._take(place, of_key, _ALL_TOKENS, self._settings.max_tokens, tokens, "tokens")

    def correct_tokens(self, key: ApiKey | None, tokens: int) -> None:
        """What was taken turns out to be so many tokens more, or less where negative."""
        place, of_key = self._tokens_of(key)
        for bucket, most in ((place, of_key), (_ALL_TOKENS, self._settings.max_tokens)):
            if most is not None:
                self._buckets.correct(bucket, tokens * self._window / most)

    def _tokens_of(self, key: ApiKey | None) -> tuple[int, int | None]:
        """Bucket and limit of a key's tokens."""
        if key is None:
            return 0, None
        own = key.max_tokens
        return _FIRST_KEY + 2 * key.place + 1, self._settings.key_max_tokens if own is None else own

    def _take(
        self, key_bucket: int, of_key: int | None, all_bucket: int, of_all: int | None, amount: int, what: str
    ) -> None:
        window = self._window
        if of_key is not None:
            wait = self._buckets.take(key_bucket, amount * window / of_key, window)
            if wait:
                raise self._refused(f"this API key has {of_key} {what} in {window:g} s", wait)
        if of_all is not None:
            wait = self._buckets.take(all_bucket, amount * window / of_all, window)
            if wait:
                if of_key is not None:
                    self._buckets.correct(key_bucket, -amount * window / of_key)
                raise self._refused(f"all clients together have {of_all} {what} in {window:g} s", wait)

    def _refused(self, reason: str, wait: float) -> ApiError:
        settings = self._settings
        return ApiError(
            settings.status,
            f"{settings.message} ({reason})",
            kind="rate_limit_error",
            code=RATE_LIMIT_CODE,
            retry_after=wait,
        )
