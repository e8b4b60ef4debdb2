"""A tokenizer of bytes and eight special tokens, and a chat template in which roles matter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pymotor.engines.sim.model import Words

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|audio_pad|>",
)
FIRST_SPECIAL = 256
VOCABULARY = FIRST_SPECIAL + len(SPECIAL_TOKENS)
IM_START, IM_END, VISION_START, VISION_END = 257, 258, 259, 260
PAD = {"image": 261, "video": 262, "audio": 263}
EOS = IM_END


def encode(text: str) -> Words:
    """The UTF-8 bytes as token ids; special tokens in text are ordinary characters."""
    return np.frombuffer(text.encode("utf-8", errors="surrogatepass"), dtype=np.uint8).astype(np.uint64)


def decode(tokens: Iterable[int], keep_special: bool = False) -> str:
    """The text of token ids; bytes that are no UTF-8 become U+FFFD. Raises `ValueError` for an unknown id."""
    data = bytearray()
    for token in tokens:
        if token < FIRST_SPECIAL:
            data.append(token)
        elif token >= VOCABULARY:
            raise ValueError(f"token id {token} is not in the vocabulary of {VOCABULARY}")
        elif keep_special:
            data += SPECIAL_TOKENS[token - FIRST_SPECIAL].encode()
    return data.decode("utf-8", errors="replace")


def token_text(token: int) -> str:
    """One token as text, special ones by their names."""
    return decode((token,), keep_special=True)
