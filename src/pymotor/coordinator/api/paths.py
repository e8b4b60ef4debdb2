"""All paths of the API that engines answer."""

from __future__ import annotations

from collections.abc import Mapping

from pymotor.coordinator.api.messages import COUNT_TOKENS, MESSAGES
from pymotor.coordinator.api.passing import PASSING
from pymotor.coordinator.api.responses import RESPONSES
from pymotor.coordinator.api.surface import CHAT, COMPLETIONS, Surface

SURFACES: Mapping[bytes, Surface] = {
    surface.path: surface for surface in (CHAT, COMPLETIONS, MESSAGES, RESPONSES, COUNT_TOKENS, *PASSING)
}
"""By path."""
