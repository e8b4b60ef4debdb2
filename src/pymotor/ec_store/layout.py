"""What ECExampleConnector writes: `<store>/<identifier>/encoder_cache.safetensors`, one tensor `ec_cache`.

Source of the layout: vLLM 0.32, `ECExampleConnector`; of the file: the safetensors format (eight bytes with the length
of a JSON header, the header, the tensors' bytes without a gap).
"""

from __future__ import annotations

import json
import os
import re
import struct

FILE = "encoder_cache.safetensors"
TENSOR = "ec_cache"
_PLAIN_NAME = re.compile(r"[0-9A-Za-z_:-][0-9A-Za-z_.:-]{0,254}")
_CONTENT_HASH = re.compile(r"(?:.+:)?[0-9a-f]{32,128}")
_LEFTOVER = re.compile(r"\.(?:tmp|writing-)[0-9A-Za-z_]+")
_LENGTH_BYTES = 8
_LONGEST_HEADER = 1 << 20


def is_plain_name(name: str) -> bool:
    """Whether the identifier is a name and nothing else: no path, no hidden file, no character that is not ASCII."""
    return _PLAIN_NAME.fullmatch(name) is not None


def is_content_hash(name: str) -> bool:
    """Whether the identifier is one that an engine computes from an item's content."""
    return _CONTENT_HASH.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Whether a file in an item's directory is the temporary one of a writer: safetensors 0.8 and later write beside
    the file and rename; what a killed encoder was writing stays."""
    return _LEFTOVER.fullmatch(name) is not None


def file_problem(descriptor: int, size: int) -> str:
    """What is wrong with the item's open file of `size` bytes; nothing when a reader will take it."""
    if size == 0:
        return "empty"
    prefix = os.pread(descriptor, _LENGTH_BYTES, 0)
    if len(prefix) < _LENGTH_BYTES:
        return f"half-written: {size} bytes"
    (length,) = struct.unpack("<Q", prefix)
    if length > _LONGEST_HEADER:
        return "not a safetensors file"
    raw = os.pread(descriptor, length, _LENGTH_BYTES)
    if len(raw) < length:
        return f"half-written: {size} bytes, less than its header"
    try:
        header = json.loads(raw)
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        data = max(ends, default=0)
        needed = _LENGTH_BYTES + length + data
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "not a safetensors file"
    if TENSOR not in header:
        return f"holds no tensor {TENSOR}"
    if size < needed:
        return f"half-written: {size} of {needed} bytes"
    return "" if size == needed else f"longer than its header says: {size} bytes, not {needed}"
