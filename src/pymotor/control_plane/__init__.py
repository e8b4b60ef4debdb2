"""What Controller, NodeManager and Coordinator share as parts of one cluster: its token, and small HTTP servers.

The servers are imported when they are first used: FastAPI takes half a second, and not every part serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymotor.control_plane.token import TOKEN_VARIABLE, ClusterToken, TokenError, is_loopback

if TYPE_CHECKING:
    from pymotor.control_plane.serving import AdminServer

__all__ = ["TOKEN_VARIABLE", "AdminServer", "ClusterToken", "TokenError", "is_loopback"]


def __getattr__(name: str) -> object:
    if name != "AdminServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pymotor.control_plane.serving import AdminServer

    return AdminServer
