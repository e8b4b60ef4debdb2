"""What the operating system must grant before thousands of connections can be opened."""

from __future__ import annotations

import resource


def raise_open_files(wanted: int = 65536) -> int:
    """Raises the limit of open files as far as this user may, up to `wanted`; returns what is granted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if granted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    return max(granted, soft)
