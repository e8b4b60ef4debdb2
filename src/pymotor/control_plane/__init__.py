"""What Controller, NodeManager and Coordinator share as parts of one cluster: its token, and small HTTP servers."""

from pymotor.control_plane.serving import AdminServer
from pymotor.control_plane.token import TOKEN_VARIABLE, ClusterToken, TokenError, is_loopback

__all__ = ["TOKEN_VARIABLE", "AdminServer", "ClusterToken", "TokenError", "is_loopback"]
