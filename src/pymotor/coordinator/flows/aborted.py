"""Handoffs that decode has not fetched, to be told to prefill with its next leg (`aborted_request`).

Protocol: vLLM-Ascend's LLMDataDistCMgrConnector, whose prefill otherwise keeps the KV cache of such a request until a
timeout. Other connectors notice by themselves, and pass over the field.
"""

from __future__ import annotations

CONNECTORS = frozenset(("LLMDataDistCMgrConnector", "pull"))
"""By `pull` a proxy calls any connector of that dialect, if it was not told which."""
_LIMIT = 1024
"""Requests that are remembered for one endpoint; older ones are left to prefill's own timeout."""


class AbortedRequests:
    """What one worker has to tell, by prefill endpoint."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[str, list[str]] = {}

    def note(self, endpoint_id: str, request_id: bytes) -> None:
        """Decode's leg of this request has failed."""
        waiting = self._waiting.setdefault(endpoint_id, [])
        waiting.append(request_id.decode())
        del waiting[:-_LIMIT]

    def take(self, endpoint_id: str) -> list[str]:
        """The ids for the leg that goes to this endpoint now."""
        return self._waiting.pop(endpoint_id, [])
