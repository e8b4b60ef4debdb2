"""The numbers of a simulated pooling model: texts that have much in common get vectors that point the same way.

Each run of three words of the prompt (tokens, or the words of a media item's embedding) casts a vote on the sign of
each of 64 dimensions; the vector is the sum, of length 1. So the numbers depend on all of the prompt and on nothing
else.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from pymotor.engines.sim import model
from pymotor.engines.sim.chat_template import Prompt
from pymotor.engines.sim.model import Words

DIMENSIONS = 64
_STEEPNESS = 4.0
"""Of the curve from a cosine to a cross-encoder's score."""

Vector = npt.NDArray[np.float64]


def vector(prompt: Prompt) -> Vector:
    """The embedding of a prompt: 64 numbers, of length 1."""
    padded = np.concatenate((_words(prompt), np.zeros(2, dtype=np.uint64)))
    runs = model.mix_words(padded[:-2] + model.mix_words(padded[1:-1] + model.mix_words(padded[2:])))
    bits = np.unpackbits(runs.astype("<u8").view(np.uint8).reshape(len(runs), 8), axis=1, bitorder="little")
    votes = bits.astype(np.float64).sum(axis=0) * 2 - len(runs)
    length = float(np.linalg.norm(votes))
    unit: Vector = votes / length if length else np.full(DIMENSIONS, DIMENSIONS**-0.5)
    return unit


def probabilities(prompt: Prompt, labels: int) -> list[float]:
    """The probability of each label of a classifier; with one label alone, of that."""
    scores = [_STEEPNESS * value for value in vector(prompt)[:labels].tolist()]
    if labels == 1:
        return [_sigmoid(scores[0])]
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def similarity(one: Prompt, other: Prompt) -> float:
    """The cosine of two prompts' vectors, as a model of embeddings scores pairs."""
    return float(vector(one) @ vector(other))


def relevance(one: Prompt, other: Prompt) -> float:
    """A score between 0 and 1, as a cross-encoder gives pairs."""
    return _sigmoid(_STEEPNESS * similarity(one, other))


def _words(prompt: Prompt) -> Words:
    """The prompt's tokens, with embeddings in the places of media."""
    words: Words = prompt.tokens.copy()
    for item in prompt.media:
        seen = item.content_digest or hashlib.sha256(item.identifier.encode()).digest()
        words[item.offset : item.offset + item.tokens] = model.embed(seen, item.tokens)
    return words


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
