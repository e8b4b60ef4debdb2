"""Where values that msgspec left as they are stand in the text that they were read from."""

from __future__ import annotations

import msgspec
import numpy as np


def offset_in(whole: bytes | msgspec.Raw, part: msgspec.Raw) -> int:
    """Where `part` begins in `whole`, in bytes; -1 where it is no part of it.

    A raw value that was decoded is a view of the text, not a copy, so that its address tells.
    """
    offset = _address(part) - _address(whole)
    return offset if 0 <= offset <= len(memoryview(whole)) - len(memoryview(part)) else -1


def _address(buffer: bytes | msgspec.Raw) -> int:
    found: int = np.frombuffer(buffer, dtype=np.uint8).__array_interface__["data"][0]
    return found
