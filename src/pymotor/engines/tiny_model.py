"""`pymotor make-tiny-model`: a Qwen3-VL with random weights, small enough for tests without an accelerator.

It is a whole checkpoint, two megabytes, that vLLM and transformers load like a real one: configuration, weights,
processor, chat template, and a tokenizer whose tokens are the 256 bytes and eight special ones. Its answers are
gibberish, but gibberish that depends on every image and every word of the prompt, and is the same each time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pymotor.engines.tiny_model_weights import TinyShape, make_weights, write_safetensors

MARK = "pymotor-tiny-model.json"
"""Tells a directory that this command made from one that it must not touch."""
FORMAT = 1
"""Part of the mark: a directory with another format is made anew."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TOKEN_IDS = {token: 256 + number for number, token in enumerate(SPECIAL_TOKENS)}
MAX_POSITIONS = 32768
DEFAULT_ANSWER_TOKENS = 48

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}"
    "{{- message.content -}}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' or part.type == 'image_url' -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'video' or part.type == 'video_url' -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- else -%}"
    "{{- part.text -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- endif -%}"
)


class NotOursError(Exception):
    """The directory holds something that this command did not make."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `pymotor make-tiny-model`."""
    parser.description = (
        "Write a tiny Qwen3-VL with random weights (2 MB, float32) that vLLM serves on a CPU. Its answers depend "
        "on the images and the text, and are the same for the same seed. Needs neither torch nor transformers. "
        "A directory that holds the same model already is left as it is."
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write the checkpoint; made if missing")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    parser.add_argument(
        "--force",
        action="store_true",
        help="write into a directory that holds files of others; same names are lost",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a sentence")
    parser.epilog = "Serve it with: vllm serve DIR --dtype float32 --max-model-len 4096"


def run(arguments: argparse.Namespace) -> int:
    """Make the model; exit status 1 when the directory is not ours or cannot be written, 2 for a negative seed."""
    if arguments.seed < 0:
        print("make-tiny-model: --seed must not be negative", file=sys.stderr)
        return 2
    directory: Path = arguments.directory
    try:
        made = make_tiny_model(directory, arguments.seed, force=arguments.force)
    except NotOursError as error:
        print(f"make-tiny-model: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"make-tiny-model: cannot write {directory}: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({"directory": str(directory.resolve()), "seed": arguments.seed, "made": made}))
    else:
        print(f"{directory}: a tiny Qwen3-VL {'made' if made else 'is there already'} (seed {arguments.seed})")
    return 0


def make_tiny_model(directory: Path, seed: int = 0, *, force: bool = False) -> bool:
    """Write the checkpoint into `directory`; False when the same one is there already and nothing was written.

    Each file appears whole or not at all, the mark last, so that a run that was killed is made good by the next.
    Raises `NotOursError` for a directory with files of others (unless `force`), `OSError` where writing fails.
    """
    mark = {"made_by": "pymotor make-tiny-model", "format": FORMAT, "seed": seed}
    if not force:
        found = _read_mark(directory)
        if found == mark:
            return False
        if found is None and directory.exists() and any(directory.iterdir()):
            raise NotOursError(
                f"{directory} is not empty and was not made by this command. "
                "Name another directory, or write into it anyway with --force."
            )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).unlink(missing_ok=True)
    (directory / MARK).write_text(json.dumps({**mark, "seed": None}), encoding="ascii")
    shape = TinyShape(vocabulary=256 + len(SPECIAL_TOKENS))
    for name, content in _json_files(shape).items():
        _replace_text(directory / name, json.dumps(content, indent=2) + "\n")
    _replace_text(directory / "chat_template.jinja", CHAT_TEMPLATE)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".weights-") as scratch:
        weights = Path(scratch) / "model.safetensors"
        write_safetensors(weights, make_weights(shape, seed, _speakable_tokens()))
        os.replace(weights, directory / "model.safetensors")
    _replace_text(directory / MARK, json.dumps(mark) + "\n")
    return True


def _read_mark(directory: Path) -> dict[str, Any] | None:
    """The mark, or None where there is none that can be read."""
    try:
        mark = json.loads((directory / MARK).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None


def _replace_text(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _speakable_tokens() -> list[int]:
    """What the model may answer with: lower-case letters, some punctuation, and the end of its turn."""
    return [*b"abcdefghijklmnopqrstuvwxyz ,.'-!?", TOKEN_IDS["<|im_end|>"]]


def _json_files(shape: TinyShape) -> dict[str, Any]:
    pixels_per_token = (shape.patch * shape.merge) ** 2
    image_size = {"shortest_edge": 4 * pixels_per_token, "longest_edge": 256 * pixels_per_token}
    processor = {
        "size": image_size,
        "patch_size": shape.patch,
        "temporal_patch_size": shape.temporal_patch,
        "merge_size": shape.merge,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    return {
        "config.json": _config(shape),
        "generation_config.json": {
            "bos_token_id": TOKEN_IDS["<|endoftext|>"],
            "eos_token_id": [TOKEN_IDS["<|im_end|>"], TOKEN_IDS["<|endoftext|>"]],
            "pad_token_id": TOKEN_IDS["<|endoftext|>"],
            "do_sample": False,
            "temperature": 0.0,
            "max_new_tokens": DEFAULT_ANSWER_TOKENS,
        },
        "preprocessor_config.json": {**processor, "image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": {**processor, "video_processor_type": "Qwen3VLVideoProcessor"},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Qwen3VLProcessor",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
        },
    }


def _config(shape: TinyShape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "float32",
        "image_token_id": TOKEN_IDS["<|image_pad|>"],
        "video_token_id": TOKEN_IDS["<|video_pad|>"],
        "vision_start_token_id": TOKEN_IDS["<|vision_start|>"],
        "vision_end_token_id": TOKEN_IDS["<|vision_end|>"],
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": "float32",
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "head_dim": shape.head_size,
            "hidden_act": "silu",
            "max_position_embeddings": MAX_POSITIONS,
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "bos_token_id": TOKEN_IDS["<|endoftext|>"],
            "eos_token_id": TOKEN_IDS["<|im_end|>"],
            "pad_token_id": TOKEN_IDS["<|endoftext|>"],
            "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]},
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": shape.vision_blocks,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": shape.vision_heads,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": shape.patch,
            "temporal_patch_size": shape.temporal_patch,
            "spatial_merge_size": shape.merge,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": shape.position_grid**2,
            "deepstack_visual_indexes": list(shape.deepstack_blocks),
        },
    }


def _tokenizer() -> dict[str, Any]:
    """A tokenizer of bytes: byte-level BPE without a single merge. Token n is the byte n."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, number in TOKEN_IDS.items()
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {symbol: number for number, symbol in enumerate(_byte_symbols())},
            "merges": [],
        },
    }


def _byte_symbols() -> list[str]:
    """The visible character that byte-level BPE writes for each byte: itself where it is printable in Latin-1,
    else the next unused one from U+0100 on (the table of GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unused = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(unused)) for byte in range(256)]
