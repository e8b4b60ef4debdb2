"""Models without weights: tokenizer and chat template say what the simulated engine's say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.prompts.prompt import Prompt
from pymotor.coordinator.prompts.text_tokens import FILE_NAME
from pymotor.engines.sim.tokenizer import PAD, SPECIAL_TOKENS

TEMPLATE = """{%- for message in messages %}
    {%- if message.content is string and message.content == 'refuse' %}{{ raise_exception('no') }}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for part in message.content %}
        {%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{%- else %}{{- part.text }}{%- endif %}
        {%- if part.text == 'refuse' %}{{ raise_exception('no') }}{% endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def template_model(directory: Path, config: dict[str, Any] | None = None) -> str:
    """Write the model's files; with `config` (its tokenizer_config.json) there is no other template."""
    byte_tokens = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    written = _as_byte_level()
    vocabulary = {written[byte]: byte for byte in range(256)}
    assert set(byte_tokens) == set(vocabulary)
    found = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_special_tokens(list(SPECIAL_TOKENS))
    found.save(str(directory / FILE_NAME))
    (directory / "config.json").write_text(json.dumps({"image_token_id": PAD["image"]}))
    (directory / "tokenizer_config.json").write_text(json.dumps(config or {}))
    if config is None:
        (directory / "chat_template.jinja").write_text(TEMPLATE)
    return str(directory)


def _as_byte_level() -> list[str]:
    """How a byte is written in vocabularies of bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def read(path: str, body: dict[str, Any]) -> RequestView:
    """The view of a body."""
    surface = SURFACES[path.encode()]
    return surface.read(surface, json.dumps({"model": "m", **body}).encode(), False)


def tokens(prompt: Prompt) -> list[int]:
    """A prompt's token ids."""
    found: list[int] = np.frombuffer(prompt.tokens, dtype="<u4").tolist()
    return found
