"""The choice of a request that goes by a key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pymotor.coordinator.affinity.choices import Choice, Decision
from pymotor.coordinator.scheduling.key_choice import KeyChoice
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Policy
from pymotor.fleet import Role


class KeyedChoice(Choice):
    """By a key, the beginning of the prompt or the session; `roles` are those that it decides for."""

    __slots__ = ("_choice", "_key", "_roles")

    def __init__(
        self,
        choice: KeyChoice,
        ledger: Ledger,
        base: Policy,
        *,
        key: int,
        roles: frozenset[Role],
        prompt_tokens: int,
        outcome: str,
    ) -> None:
        super().__init__(ledger, base, prompt_tokens, outcome)
        self._choice = choice
        self._key = key
        self._roles = roles

    def _decide(self, group: Group, avoid: frozenset[str]) -> Decision | None:
        loads = group.loads(self._ledger)
        if group.targets[0].instance.role not in self._roles:
            return self._by_load(group, avoid, loads)
        target = self._choice.choose(self._key, self.prompt_tokens, group, avoid)
        return None if target is None else Decision(group, avoid, loads, target, "key")

    def best_group(
        self,
        groups: Sequence[Group],
        avoid: frozenset[str],
        turn: int = 0,  # noqa: ARG002  a key has no equals
    ) -> int | None:
        """See `Choice`. The key's order is that of the endpoints of all groups together, and so is the bound."""
        if any(group.targets[0].instance.role not in self._roles for group in groups):
            return None
        return self._choice.best_group(self._key, self.prompt_tokens, groups, avoid)

    def places(self, group: Group) -> npt.NDArray[np.intp]:
        """Each endpoint's place in the key's own order, 0 first."""
        return self._choice.places(self._key, group)
