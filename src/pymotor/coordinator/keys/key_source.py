"""Where the supervisor has the keys from: `valid_keys` of the configuration, and the keys file, which may change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pymotor.coordinator.keys.api_key import ApiKey, Scope
from pymotor.coordinator.keys.keys_file import KeysFileError, now, read_keys

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PLACES = 65_536
"""Keys that a Coordinator can tell apart in its life, those that are gone included."""
_CONFIGURED_SCOPES = frozenset((Scope.INFERENCE,))


class KeySource:
    """Reads all keys; kept by the supervisor alone, since it gives each its place."""

    def __init__(self, configured: Sequence[str], file: Path | None) -> None:
        """`configured` are stored hashes, good for requests of clients."""
        self._configured = tuple(configured)
        self._file = file
        self._places: dict[str, int] = {}
        self._seen: tuple[int, ...] | None = None
        self._complaint = ""

    def read(self) -> tuple[ApiKey, ...]:
        """The keys that are not revoked, expired ones too. Raises `KeysFileError`."""
        self._seen = self._signature()
        keys = [
            ApiKey(
                # The same key keeps its id when another is added before it.
                id=f"configured-{hashlib.sha256(stored.encode()).hexdigest()[:12]}",
                name=f"valid_keys.{number}",
                hash=stored,
                scopes=_CONFIGURED_SCOPES,
                configured=True,
            )
            for number, stored in enumerate(self._configured)
        ]
        if self._file is not None:
            keys += [
                ApiKey(
                    id=record.id,
                    name=record.name,
                    hash=record.hash,
                    scopes=frozenset(record.scopes),
                    expires_at=record.expires_at.timestamp() if record.expires_at is not None else None,
                    max_requests=record.max_requests,
                    max_tokens=record.max_tokens,
                )
                for record in read_keys(self._file)
                if record.revoked_at is None
            ]
        return tuple(self._placed(keys))

    async def follow(self, publish: Callable[[tuple[ApiKey, ...]], None]) -> None:
        """Tell the keys again whenever the file has changed, for ever. A file that is gone or broken changes nothing
        and is told in the log, once."""
        while self._file is not None:
            await asyncio.sleep(POLL_SECONDS)
            if self._signature() == self._seen:
                continue
            try:
                keys = self.read()
            except KeysFileError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    logger.error("%s; the keys stay as they were", error)
                continue
            self._complaint = ""
            usable = sum(key.expires_at is None or key.expires_at > now().timestamp() for key in keys)
            logger.info("the keys file was read again: %d keys, %d of them not expired", len(keys), usable)
            publish(keys)

    def _signature(self) -> tuple[int, ...] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return ()
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode, status.st_uid)

    def _placed(self, keys: Sequence[ApiKey]) -> list[ApiKey]:
        fresh = [key.id for key in keys if key.id not in self._places]
        if len(self._places) + len(fresh) > PLACES:
            raise KeysFileError(f"more than {PLACES} keys came and went; start the Coordinator again")
        for key_id in fresh:
            self._places[key_id] = len(self._places)
        return [msgspec.structs.replace(key, place=self._places[key.id]) for key in keys]
