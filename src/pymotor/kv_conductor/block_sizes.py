"""Which block sizes a model's publishers have: a question is asked once for each."""

from __future__ import annotations

from collections import Counter


class BlockSizes:
    """Counts publishers by model and block size."""

    def __init__(self) -> None:
        self._sizes: dict[str, Counter[int]] = {}
        self._of: dict[str, tuple[int, ...]] = {}

    def of(self, model: str) -> tuple[int, ...]:
        """The sizes, in tokens; usually one."""
        return self._of.get(model, ())

    def change(self, model: str, before: int, after: int) -> None:
        """One publisher's size was this and is now that; 0 stands for none."""
        sizes = self._sizes.setdefault(model, Counter())
        sizes[before] -= 1
        sizes[after] += 1
        for size in (before, after):
            if not size or sizes[size] <= 0:
                del sizes[size]
        self._of[model] = tuple(sizes)
        if not sizes:
            del self._sizes[model], self._of[model]
