"""The newest choices of a worker, kept as they are: nothing is written out until somebody asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from time import time

from pymotor.coordinator.affinity.choices import Choice

_KEPT = 256
_REQUEST_ID = b"x-request-id"


class RecentChoices:
    """The last `kept` of them."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept: deque[Choice] = deque(maxlen=kept)

    def keep(self, choice: Choice, headers: Mapping[bytes, bytes]) -> None:
        """Of a request with these headers, names in lower case."""
        choice.placed_at = time()
        request_id = headers.get(_REQUEST_ID)
        if request_id is not None:
            choice.request_id = request_id
        self._kept.append(choice)

    def find(self, request_id: bytes) -> Choice | None:
        """The newest of the request that the client or an answer calls so; the empty text means the newest of all."""
        for choice in reversed(self._kept):
            # An answer's id is made of the last leg's.
            if not request_id or choice.request_id == request_id or any(leg in request_id for leg in choice.leg_ids):
                return choice
        return None
