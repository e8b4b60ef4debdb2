"""Pieces encoded by themselves are the whole's tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.prompts.text_tokens import FILE_NAME, TextTokens, cutting_tokens

SPECIAL = ["<|begin|>", "<|end|>", "<|end_of_text|>"]
WORDS = "a chat about chats that chatter of the end, the very end\n of it all"


def trained(pre_tokenizer: Any = None, **added: bool) -> tokenizers.Tokenizer:
    """A tokenizer with merges, so that cutting in a wrong place shows."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    found.pre_tokenizer = pre_tokenizer or tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([WORDS] * 10, trainer)
    found.add_special_tokens([tokenizers.AddedToken(one, special=True, **added) for one in SPECIAL])
    return found


TRAINED = trained()
PIECES = TextTokens(TRAINED, SPECIAL[:2])


def ids(tokens: bytes) -> list[int]:
    found: list[int] = np.frombuffer(tokens, dtype="<u4").tolist()
    return found


texts = st.lists(st.sampled_from([*SPECIAL, *WORDS.split(" "), " ", "\n", "<|", "end", "|>", "é", "<|beg", "😀"])).map(
    "".join
)


@given(texts)
def test_pieces_together_are_the_whole(text: str) -> None:
    assert ids(PIECES.encode(text)) == TRAINED.encode(text, add_special_tokens=False).ids


@given(texts, texts, texts)
def test_what_is_remembered_is_the_same(first: str, second: str, third: str) -> None:
    few = TextTokens(TRAINED, SPECIAL, remembered_bytes=1000)
    for text in (first, first + second, first + second + third, first):
        assert ids(few.encode(text)) == TRAINED.encode(text, add_special_tokens=False).ids
    assert few._bytes <= 1000 or len(few._pieces) <= 1


def test_only_what_stands_by_itself_cuts() -> None:
    described = json.loads(trained().to_str())
    assert cutting_tokens(described) == SPECIAL
    assert cutting_tokens(json.loads(trained(lstrip=True).to_str())) == []
    assert cutting_tokens(json.loads(trained(normalized=True).to_str())) == []
    within = json.loads(trained().to_str())
    within["added_tokens"].append({**within["added_tokens"][0], "content": "<<|begin|>>"})
    assert cutting_tokens(within) == ["<|end|>", "<|end_of_text|>", "<<|begin|>>"]
    first = tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")])
    assert cutting_tokens(json.loads(trained(first).to_str())) == []


@pytest.mark.parametrize("truncated", [False, True])
def test_what_stands_around_a_prompt(tmp_path: Path, truncated: bool) -> None:
    tokenizer = trained()
    number = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", number)]
    )
    if truncated:
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / FILE_NAME))
    loaded = TextTokens.load(str(tmp_path))
    plain = TRAINED.encode(WORDS, add_special_tokens=False).ids
    assert ids(loaded.encode(WORDS)) == plain
    assert ids(loaded.encode(WORDS, with_special=True)) == [number, *plain]
