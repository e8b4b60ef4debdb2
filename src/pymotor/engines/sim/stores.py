"""Files that engines share: embeddings as ECExampleConnector lays them out, KV as ExampleConnector does.

Both are real safetensors files with one tensor of unsigned 64-bit words and a checksum in the metadata,
written to a temporary name and renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from pymotor.engines.sim.model import Words

_SAFE_NAME = re.compile(r"[0-9A-Za-z_:-][0-9A-Za-z_.:-]{0,200}")


class DirectoryEmbeddingStore:
    """`<directory>/<identifier>/encoder_cache.safetensors`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, identifier: str) -> Words | None:
        """The embedding, or None when it is not there or not whole."""
        return read_tensor(self._path(identifier), "ec_cache")

    def save(self, identifier: str, embedding: Words) -> None:
        """Write the embedding unless it is there."""
        path = self._path(identifier)
        if not path.exists():
            write_tensor(path, "ec_cache", embedding)

    def _path(self, identifier: str) -> Path:
        name = identifier if _SAFE_NAME.fullmatch(identifier) else hashlib.sha256(identifier.encode()).hexdigest()
        return self._directory / name / "encoder_cache.safetensors"


class DirectoryKVStore:
    """`<directory>/<md5 of tokens and identifiers>/<layer>.safetensors`.

    As ExampleConnector: the producer keys by the prompt cut to `(n - 1) // block_size` blocks, the consumer by
    one token less, so that a prompt of `k * block_size + 1` tokens is never found.
    """

    LAYER = "model.layers.0.self_attn.attn"

    def __init__(self, directory: Path, block_size: int) -> None:
        self._directory = directory
        self._block_size = block_size

    def load(self, tokens: Words, identifiers: tuple[str, ...]) -> Words | None:
        """KV of the prompt's full blocks, or None."""
        length = self._aligned(len(tokens) - 1)
        return read_tensor(self._path(tokens[:length], identifiers), "kv_cache") if length > 0 else None

    def save(self, tokens: Words, identifiers: tuple[str, ...], states: Words) -> None:
        """Write the KV of the prompt's full blocks unless it is there."""
        length = self._aligned(len(tokens))
        path = self._path(tokens[:length], identifiers)
        if length > 0 and not path.exists():
            write_tensor(path, "kv_cache", states[:length])

    def _aligned(self, length: int) -> int:
        return (length - 1) // self._block_size * self._block_size

    def _path(self, tokens: Words, identifiers: tuple[str, ...]) -> Path:
        digest = hashlib.md5(tokens.tobytes() + "-".join(identifiers).encode(), usedforsecurity=False).hexdigest()
        return self._directory / digest / f"{self.LAYER}.safetensors"


def write_tensor(path: Path, name: str, words: Words) -> None:
    """A safetensors file with one tensor; appears whole or not at all."""
    data = words.astype("<u8").tobytes()
    header = msgspec.json.encode(
        {
            "__metadata__": {"xxh3_128": xxhash.xxh3_128_hexdigest(data)},
            name: {"dtype": "U64", "shape": [len(words)], "data_offsets": [0, len(data)]},
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_tensor(path: Path, name: str) -> Words | None:
    """The tensor of a file that `write_tensor` wrote; None when there is no file.

    Raises `ValueError` when the file is damaged, as a truncated file is.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = msgspec.json.decode(content[8 : 8 + length])
        data = content[8 + length :]
        good = header["__metadata__"]["xxh3_128"] == xxhash.xxh3_128_hexdigest(data) and name in header
    except (struct.error, msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not good:
        raise ValueError(f"{path} is damaged: its checksum does not fit")
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)
