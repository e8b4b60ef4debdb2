"""Texts into token ids by the model's `tokenizer.json`, remembering the pieces.

A text is cut only at special tokens that the tokenizer itself finds before it looks at anything else: what stands
between two of them is encoded alike wherever it stands, so the pieces' ids together are the whole's. A chat that goes
on consists of pieces that were seen before and of what is new. Where the tokenizer treats the beginning of a text
unlike the rest, texts are not cut.

Called from several threads: the library lets others run while it encodes.
"""

from __future__ import annotations

import json
import os
import re
import threading
from array import array
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import xxhash

FILE_NAME = "tokenizer.json"
TOKEN_BYTES = 4
"""A token id as it is kept and sent: little endian."""
_REMEMBERED_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 200
"""About what an entry costs beside its tokens."""


class TokenizerError(Exception):
    """A tokenizer.json cannot be used; the message names it and says why."""


class Tokenizer(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[Any]:
        """An encoding for each text."""

    def token_to_id(self, token: str) -> int | None:
        """None for what is no token."""


class TextTokens:
    """Encodes and remembers; one for a worker."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: list[str],
        *,
        before: list[int] | None = None,
        after: list[int] | None = None,
        remembered_bytes: int = _REMEMBERED_BYTES,
    ) -> None:
        """`special` are the tokens at which texts may be cut; `before` and `after` stand around a whole text that is
        to have special tokens."""
        self._tokenizer = tokenizer
        self._cut = re.compile("|".join(re.escape(one) for one in sorted(special, key=len, reverse=True)) or r"(?!)")
        self._special = {one: _packed([tokenizer.token_to_id(one) or 0]) for one in special}
        self._before, self._after = _packed(before or []), _packed(after or [])
        self._pieces: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._remembered_bytes = remembered_bytes
        self._lock = threading.Lock()

    @classmethod
    def load(cls, directory: str) -> TextTokens:
        """Read the tokenizer in `directory`; about a second for a large vocabulary. Raises `ImportError`, and
        `TokenizerError` for a file that cannot be read."""
        # A pool of threads of its own would compete with the workers for the processors.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer as Library

        path = Path(directory) / FILE_NAME
        try:
            tokenizer = Library.from_file(str(path))
        except Exception as error:
            # The library raises nothing narrower.
            raise TokenizerError(f"the tokenizer {path} cannot be used: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        described = json.loads(path.read_bytes())
        before, after = _around(tokenizer)
        return cls(tokenizer, cutting_tokens(described), before=before, after=after)

    @property
    def adds_special(self) -> bool:
        """Whether a prompt that is to have special tokens gets any."""
        return bool(self._before or self._after)

    def encode(self, text: str, *, with_special: bool = False) -> bytes:
        """The ids of the whole text; `with_special`: and those that the tokenizer puts around a prompt."""
        # Of what is no UTF-8 the library would know nothing.
        text = text.encode("utf-8", "replace").decode() if not text.isascii() else text
        parts: list[bytes] = []
        missing: list[tuple[int, int, str]] = []
        start = 0
        for match in self._cut.finditer(text):
            self._look_up(text[start : match.start()], parts, missing)
            parts.append(self._special[match[0]])
            start = match.end()
        self._look_up(text[start:], parts, missing)
        if missing:
            self._encode_missing(parts, missing)
        found = b"".join(parts)
        return self._before + found + self._after if with_special else found

    def _look_up(self, piece: str, parts: list[bytes], missing: list[tuple[int, int, str]]) -> None:
        if not piece:
            return
        key = xxhash.xxh3_64_intdigest(piece.encode())
        with self._lock:
            known = self._pieces.get(key)
            if known is not None:
                self._pieces.move_to_end(key)
        if known is None:
            missing.append((len(parts), key, piece))
            known = b""
        parts.append(known)

    def _encode_missing(self, parts: list[bytes], missing: list[tuple[int, int, str]]) -> None:
        # Of the library's functions this one lets other threads run.
        encoded = self._tokenizer.encode_batch_fast([piece for *_, piece in missing], add_special_tokens=False)
        for (place, key, _), encoding in zip(missing, encoded, strict=True):
            parts[place] = _packed(encoding.ids)
            self._remember(key, parts[place])

    def _remember(self, key: int, tokens: bytes) -> None:
        with self._lock:
            former = self._pieces.pop(key, None)
            if former is not None:
                self._bytes -= len(former) + _ENTRY_BYTES
            self._pieces[key] = tokens
            self._bytes += len(tokens) + _ENTRY_BYTES
            while self._bytes > self._remembered_bytes:
                _, oldest = self._pieces.popitem(last=False)
                self._bytes -= len(oldest) + _ENTRY_BYTES


def cutting_tokens(described: dict[str, Any]) -> list[str]:
    """The tokens at which a text can be cut, of the tokenizer that `described` (its `tokenizer.json`) is.

    Such a token is looked for in the raw text, takes nothing of what stands around it and is no part of another.
    """
    if _sees_the_beginning(described):
        return []
    added = [one for one in described.get("added_tokens") or [] if one.get("content")]
    names = [one["content"] for one in added]
    return [
        one["content"]
        for one in added
        if not one.get("normalized")
        and not one.get("lstrip")
        and not one.get("rstrip")
        and not one.get("single_word")
        and not any(one["content"] in name for name in names if name != one["content"])
    ]


def _sees_the_beginning(described: Any) -> bool:
    """Whether somewhere in it a step treats the first piece of a text unlike the others."""
    if isinstance(described, dict):
        if described.get("prepend_scheme") == "first":
            return True
        return any(
            _sees_the_beginning(described.get(name))
            for name in ("normalizer", "pre_tokenizer", "pretokenizers", "normalizers")
        )
    return isinstance(described, list) and any(map(_sees_the_beginning, described))


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text that is to have special tokens."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _packed(ids: list[int]) -> bytes:
    return array("I", ids).tobytes()
