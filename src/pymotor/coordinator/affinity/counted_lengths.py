"""Whether prompts are as long here as at the engines: another model's tokenizer finds nothing that engines hold, and no
question says so."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_IN_A_ROW = 8
"""Prompts: one may have been changed on its way, or its answer carried on."""


class CountedLengths:
    """Of the prompts that one worker has placed by their tokens."""

    def __init__(self) -> None:
        self._differing = 0
        """Of the last ones, without one between that does not."""
        self._told = False

    def compare(self, here: int, there: int) -> None:
        """Tokens of one prompt, as they were counted here, and as its engine says. Warns once."""
        if here == there:
            self._differing = 0
            return
        self._differing += 1
        if self._differing < _IN_A_ROW or self._told:
            return
        self._told = True
        logger.warning(
            "%d prompts in a row have another length here than at their engines, the last one %d tokens here and %d "
            "there: by other tokens nothing is found of what engines hold. Are tokenizer and chat template those of "
            "the model that they serve? See scheduler_config.tokenizer_path",
            _IN_A_ROW,
            here,
            there,
        )
