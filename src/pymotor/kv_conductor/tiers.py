"""The tiers of a publisher's cache, each a bit."""

from __future__ import annotations

DEVICE_TIER = 1
"""The accelerator's."""
ANY_TIER = 0xFF
EVICTIONS_TOLD = frozenset({None, "GPU", "CPU"})
"""Media whose evictions engines are known to tell. Connectors of stores that are shared do not (vLLM's for Mooncake,
which writes `cpu`, for files and objects, LMCache): what such a store held once nobody can count on."""
_TIERS = {"GPU": DEVICE_TIER, "CPU": 2, "STORAGE": 4}
_OTHER_TIER = 8


def tier_of(medium: str | None) -> int:
    """The bit of what events call the medium; None is the accelerator."""
    return DEVICE_TIER if medium is None else _TIERS.get(medium) or _TIERS.get(medium.upper(), _OTHER_TIER)
