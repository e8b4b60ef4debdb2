"""Ports for servers that a test starts."""

from __future__ import annotations

import random
from collections import deque

from pymotor.engines.port_claims import PortClaims

_RANGE = range(12000, 24000)
"""Below the ports that the kernel gives to connections: one of those can be taken by any client meanwhile."""
_KEPT = 200
"""Claims that a process holds: each is an open file, and a server that was started long ago listens by itself."""
_claims: deque[PortClaims] = deque()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody is bound to, and that no other test and no fleet takes soon."""
    claims = PortClaims()
    for port in random.sample(_RANGE, len(_RANGE)):
        if claims.claim_unbound("127.0.0.1", port):
            _claims.append(claims)
            if len(_claims) > _KEPT:
                _claims.popleft().close()
            return port
    raise AssertionError(f"no port of {_RANGE} is free")
