"""How many files, connections among them, a process may have open."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

_UNBOUNDED = 65536


def allow_many_files() -> int:
    """Raise this process's limit on open files to what it may be raised to; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, _UNBOUNDED)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as error:
        logger.warning("the limit on open files stays at %d: %s", soft, error)
        return soft
    return wanted
