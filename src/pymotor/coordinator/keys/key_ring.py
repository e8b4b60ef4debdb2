"""Whether a key that a client shows is good: one process's view of all keys.

A stored hash takes tens of milliseconds to compare with. So each text that was shown is remembered by a digest under a
secret of this process, those that fit and, a bounded number, those that do not; a remembered text costs a microsecond.
Unknown ones are compared in one thread, a bounded number waiting for it: whoever guesses keeps nobody up whose key was
seen before.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import time

from pymotor.coordinator.keys.api_key import LONGEST_KEY, ApiKey, id_in
from pymotor.coordinator.keys.key_hash import KeyHash

_REMEMBERED_FAILURES = 4096
_MOST_WAITING = 32
# HMAC fills short keys up with zeros, so that a key and the same with zeros behind it have one hash.
_PRINTABLE = frozenset(range(0x20, 0x7F))


class TooManyUnknown(Exception):
    """More texts wait to be compared than is reasonable; whoever shows this one is to come again."""


class KeyRing:
    """All keys that are good now. `close` ends its thread."""

    __slots__ = ("_by_id", "_checks", "_configured", "_failed", "_fresh", "_hashes", "_passed", "_thread")

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        """Raises `KeyHashError` when what is stored for one is no hash."""
        self._fresh = hashlib.blake2b(digest_size=16, key=os.urandom(32))
        self._passed: dict[bytes, ApiKey] = {}
        self._failed: dict[bytes, None] = {}
        self._checks: dict[bytes, asyncio.Task[ApiKey | None]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keys")
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """These are the keys from now on. Raises `KeyHashError`; then nothing has changed."""
        by_id = {key.id: key for key in keys}
        hashes = {key.id: KeyHash(key.hash) for key in by_id.values()}
        self._by_id = by_id
        self._hashes = hashes
        self._configured = [key for key in by_id.values() if key.configured]
        passed = {}
        for digest, former in self._passed.items():
            key = by_id.get(former.id)
            if key is not None and key.hash == former.hash:
                passed[digest] = key
        self._passed = passed
        self._failed = {}

    def close(self) -> None:
        """Compare nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for check in list(self._checks.values()):
            check.cancel()

    @property
    def version(self) -> object:
        """Which keys these are: another object whenever they change."""
        return self._by_id

    def known(self, shown: bytes) -> ApiKey | None:
        """The key that `shown` is, when it was found good before. Hot path."""
        return self._passed.get(self._digest(shown))

    def _digest(self, shown: bytes) -> bytes:
        digest = self._fresh.copy()
        digest.update(shown)
        return digest.digest()

    async def find(self, shown: bytes) -> ApiKey | None:
        """The key that `shown` is, expired or not; None when it is none. Raises `TooManyUnknown`."""
        if not shown or len(shown) > LONGEST_KEY or not _PRINTABLE.issuperset(shown):
            return None
        digest = self._digest(shown)
        found = self._passed.get(digest)
        if found is not None or digest in self._failed:
            return found
        candidates = self._candidates(shown)
        if not candidates:
            return None
        check = self._checks.get(digest)
        if check is None:
            if len(self._checks) >= _MOST_WAITING:
                raise TooManyUnknown
            check = self._checks[digest] = asyncio.get_running_loop().create_task(self._check(digest, shown))
            check.add_done_callback(lambda _: self._checks.pop(digest, None))
        # Shielded: others may wait for the same, and a client that leaves frees no place among those that wait.
        return await asyncio.shield(check)

    def _candidates(self, shown: bytes) -> Sequence[ApiKey]:
        """The keys that `shown` can be: a key of our own form tells its id."""
        named = self._by_id.get(id_in(shown))
        return self._configured if named is None else (named,)

    async def _check(self, digest: bytes, shown: bytes) -> ApiKey | None:
        loop = asyncio.get_running_loop()
        while True:
            by_id, hashes = self._by_id, self._hashes
            candidates = self._candidates(shown)
            found = await loop.run_in_executor(self._thread, _first_fitting, candidates, hashes, shown)
            if by_id is self._by_id:
                break
            # The keys have changed meanwhile.
        if found is not None:
            self._passed[digest] = found
            return found
        if len(self._failed) >= _REMEMBERED_FAILURES:
            del self._failed[next(iter(self._failed))]
        self._failed[digest] = None
        return None


def _first_fitting(candidates: Sequence[ApiKey], hashes: dict[str, KeyHash], shown: bytes) -> ApiKey | None:
    return next((key for key in candidates if hashes[key.id].fits(shown)), None)


def expired(key: ApiKey) -> bool:
    """Whether its time is over."""
    return key.expires_at is not None and key.expires_at <= time()
