"""How it stands with a publisher of KV events."""

from __future__ import annotations

import logging
from enum import Enum


class Standing(str, Enum):
    """How it stands with a publisher; only what a live one told is counted."""

    CONNECTING = "connecting"
    CATCHING_UP = "catching up"
    LIVE = "live"
    UNREACHABLE = "unreachable"
    DROPPED = "dropped"
    """It sent what cannot be read; it is tried again later."""


LEVELS = {
    Standing.LIVE: logging.INFO,
    Standing.UNREACHABLE: logging.INFO,
    Standing.DROPPED: logging.WARNING,
}
"""At which a change to it is logged; others are details."""
