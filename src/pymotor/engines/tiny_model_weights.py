"""Random weights for a Qwen3-VL that fits in two megabytes, and the safetensors file they are written to.

The scales are chosen so that answers depend on the images: token embeddings are small beside what attention adds,
attention is peaked instead of being a mean over the prompt, and the vision tower's positions are small beside its
pixels. With the usual initialisation different images often get the same answer, and a test of images proves
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class TinyShape:
    """Sizes of the model. Head size 32 is the smallest that vLLM's CPU attention takes."""

    vocabulary: int
    hidden: int = 64
    intermediate: int = 128
    layers: int = 2
    heads: int = 2
    head_size: int = 32
    vision_hidden: int = 64
    vision_intermediate: int = 128
    vision_blocks: int = 2
    vision_heads: int = 2
    patch: int = 16
    temporal_patch: int = 2
    merge: int = 2
    position_grid: int = 16
    """The tower learns `position_grid` x `position_grid` positions and interpolates between them."""
    deepstack_blocks: tuple[int, ...] = (0,)
    """After these vision blocks features go straight into the language model's first layers."""


class _Draw:
    """Tensors drawn one after the other from one generator: the order of calls is part of the result."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, *size: int, scale: float) -> Tensor:
        drawn: Tensor = (self._generator.standard_normal(size) * scale).astype(np.float32)
        return drawn

    def dense(self, outputs: int, inputs: int, gain: float = 1.0) -> Tensor:
        """A projection that keeps the magnitude of its input, times `gain`."""
        return self.normal(outputs, inputs, scale=gain / inputs**0.5)


def make_weights(shape: TinyShape, seed: int, speakable: Sequence[int]) -> dict[str, Tensor]:
    """All tensors of the checkpoint under their names in it; the same for the same arguments.

    `speakable`: ids of the tokens the model may choose. The others have logit 0, never the highest of many.
    """
    draw = _Draw(seed)
    weights = {f"model.visual.{name}": tensor for name, tensor in _vision_tower(shape, draw)}
    weights |= {f"model.language_model.{name}": tensor for name, tensor in _language_model(shape, draw)}
    head = np.zeros((shape.vocabulary, shape.hidden), dtype=np.float32)
    head[list(speakable)] = draw.dense(len(speakable), shape.hidden, gain=4.0)
    weights["lm_head.weight"] = head
    return weights


def _vision_tower(shape: TinyShape, draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    width, wide = shape.vision_hidden, shape.vision_intermediate
    pixels = 3 * shape.temporal_patch * shape.patch**2
    kernel = draw.dense(width, pixels, gain=4.0)
    yield (
        "patch_embed.proj.weight",
        kernel.reshape(width, 3, shape.temporal_patch, shape.patch, shape.patch),
    )
    yield "patch_embed.proj.bias", draw.normal(width, scale=0.1)
    yield "pos_embed.weight", draw.normal(shape.position_grid**2, width, scale=0.3)
    for block in range(shape.vision_blocks):
        prefix = f"blocks.{block}"
        for norm in ("norm1", "norm2"):
            yield from _layer_norm(f"{prefix}.{norm}", width)
        yield from _biased(f"{prefix}.attn.qkv", draw, 3 * width, width, gain=1.5)
        yield from _biased(f"{prefix}.attn.proj", draw, width, width)
        yield from _biased(f"{prefix}.mlp.linear_fc1", draw, wide, width)
        yield from _biased(f"{prefix}.mlp.linear_fc2", draw, width, wide)
    yield from _merger("merger", shape, draw, norm_width=width)
    for number in range(len(shape.deepstack_blocks)):
        yield from _merger(f"deepstack_merger_list.{number}", shape, draw, norm_width=width * shape.merge**2)


def _merger(prefix: str, shape: TinyShape, draw: _Draw, norm_width: int) -> Iterator[tuple[str, Tensor]]:
    """Joins `merge` x `merge` patches to one token of the language model. The deepstack mergers norm the joined
    patches, the last one each patch."""
    joined = shape.vision_hidden * shape.merge**2
    yield from _layer_norm(f"{prefix}.norm", norm_width)
    yield from _biased(f"{prefix}.linear_fc1", draw, joined, joined)
    yield from _biased(f"{prefix}.linear_fc2", draw, shape.hidden, joined, gain=4.0)


def _language_model(shape: TinyShape, draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    width, wide, heads = shape.hidden, shape.intermediate, shape.heads * shape.head_size
    yield "embed_tokens.weight", draw.normal(shape.vocabulary, width, scale=0.3)
    for layer in range(shape.layers):
        prefix = f"layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", np.ones(width, dtype=np.float32)
        for projection in ("q_proj", "k_proj"):
            yield f"{prefix}.self_attn.{projection}.weight", draw.dense(heads, width)
        yield f"{prefix}.self_attn.v_proj.weight", draw.dense(heads, width, gain=2.0)
        yield f"{prefix}.self_attn.o_proj.weight", draw.dense(width, heads, gain=2.0)
        for norm in ("q_norm", "k_norm"):
            yield f"{prefix}.self_attn.{norm}.weight", np.full(shape.head_size, 1.5, dtype=np.float32)
        yield f"{prefix}.mlp.gate_proj.weight", draw.dense(wide, width)
        yield f"{prefix}.mlp.up_proj.weight", draw.dense(wide, width)
        yield f"{prefix}.mlp.down_proj.weight", draw.dense(width, wide)
    yield "norm.weight", np.ones(width, dtype=np.float32)


def _layer_norm(prefix: str, width: int) -> Iterator[tuple[str, Tensor]]:
    yield f"{prefix}.weight", np.ones(width, dtype=np.float32)
    yield f"{prefix}.bias", np.zeros(width, dtype=np.float32)


def _biased(prefix: str, draw: _Draw, outputs: int, inputs: int, gain: float = 1.0) -> Iterator[tuple[str, Tensor]]:
    yield f"{prefix}.weight", draw.dense(outputs, inputs, gain)
    yield f"{prefix}.bias", draw.normal(outputs, scale=0.1)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write float32 tensors as a safetensors file: the header's length in 8 little-endian bytes, a JSON header
    padded with spaces to a multiple of 8, then the tensors' bytes, little-endian and in C order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode("ascii")
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
