"""Which endpoints have room for one more request: places, and KV cache at decode."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.coordinator.settings import RequestLimits
from pymotor.fleet import Role

EXPECTED_ANSWER_TOKENS = 256
"""What a text request that states no limit is expected to generate."""
_BLOCK_TOKENS = 16
"""Of a KV block, where the engine has not said."""
_LOOP_BOUND = 16
"""Below so many endpoints a plain loop beats numpy's fixed cost."""
_NOBODY: frozenset[str] = frozenset()


class Room:
    """What there is at the endpoints, as the ledger has it at the moment."""

    __slots__ = ("_ledger", "_limits", "_media_answer_tokens", "limited")

    def __init__(self, ledger: Ledger, limits: RequestLimits) -> None:
        self._ledger = ledger
        self.use(limits)

    def use(self, limits: RequestLimits) -> None:
        """These limits hold from now on."""
        self._limits: dict[Role, int] = {
            role: limit
            for role, limit in (
                (Role.ENCODE, limits.encode),
                (Role.PREFILL, limits.prefill),
                (Role.DECODE, limits.decode),
                (Role.UNION, limits.union),
            )
            if limit is not None
        }
        self._media_answer_tokens = limits.media_answer_tokens
        self.limited = bool(self._limits)
        """Whether any endpoint has a limit."""

    # -- places

    def has_places(self, group: Group, places: int, avoid: frozenset[str]) -> bool:
        """Whether the group's endpoints, but for those in `avoid` unless all are, have `places` free together; all
        that they have when they are fewer."""
        limit = self._limits.get(group.targets[0].instance.role)
        if limit is None:
            return True
        targets = _usable(group, avoid)
        wanted = min(places, limit * len(targets))
        if len(targets) > _LOOP_BOUND:
            rows = group.row_array if targets is group.targets else np.array([target.row for target in targets])
            return bool(np.maximum(limit - self._ledger.requests(rows), 0).sum() >= wanted)
        for target in targets:
            wanted -= max(0, limit - self._ledger.in_flight(target.row))
            if wanted <= 0:
                return True
        return False

    def is_full(self, target: Target) -> bool:
        """Whether the endpoint has as many requests as it may."""
        limit = self._limits.get(target.instance.role)
        return limit is not None and self._ledger.in_flight(target.row) >= limit

    def full(self, group: Group) -> frozenset[str]:
        """The ids of the group's endpoints that have as many requests as they may."""
        limit = self._limits.get(group.targets[0].instance.role)
        if limit is None:
            return frozenset()
        targets = group.targets
        if len(targets) <= _LOOP_BOUND:
            return frozenset([target.endpoint_id for target in targets if self.is_full(target)])
        full = np.flatnonzero(self._ledger.requests(group.row_array) >= limit)
        return frozenset([targets[index].endpoint_id for index in full])

    # -- KV cache

    def has_kv(self, group: Group, view: RequestView, places: int, avoid: frozenset[str]) -> bool:
        """Whether endpoints of the group that have a place also have room for the whole KV cache of the request, as
        many times together as it has `places`; as often as fits into all of them when that is less."""
        free = most = 0
        for target in _usable(group, avoid):
            capacity = self._capacity(target)
            if capacity is None:
                most += places
                free += 0 if self.is_full(target) else places
                continue
            promise = self.promise(target, view)[0]
            most += capacity // promise
            if not self.is_full(target):
                free += max(0, capacity - self._ledger.kv(target.row)) // promise
            if free >= places:
                return True
        return free >= min(places, most) > 0

    def fits_kv(self, target: Target, view: RequestView) -> bool:
        """Whether there is room for the request's whole KV cache; where the capacity is not known there is."""
        capacity = self._capacity(target)
        return capacity is None or self._ledger.kv(target.row) + self.promise(target, view)[0] <= capacity

    def could_fit(self, group: Group, view: RequestView) -> bool:
        """Whether any endpoint of the group would have room if it were idle."""
        return self.largest(group) is None or any(
            self.promise(target, view)[0] <= (self._capacity(target) or 0) for target in group.targets
        )

    def largest(self, group: Group) -> int | None:
        """The largest KV cache of the group in tokens; None when one is not known."""
        capacities = [self._capacity(target) for target in group.targets]
        known = [capacity for capacity in capacities if capacity is not None]
        return max(known) if len(known) == len(capacities) else None

    def without_kv(self, group: Group, view: RequestView) -> frozenset[str]:
        """The ids of the group's endpoints that have no room for the request's KV cache."""
        targets = group.targets
        by_loop = len(targets) <= _LOOP_BOUND
        places = self._without_kv_by_loop(group, view) if by_loop else self._without_kv_by_array(group, view)
        return frozenset([targets[place].endpoint_id for place in places]) if places else _NOBODY

    def _without_kv_by_loop(self, group: Group, view: RequestView) -> list[int]:
        """As `fits_kv`, the places of those that it does not hold for."""
        ledger = self._ledger
        answer = self._answer(view)
        found: list[int] = []
        for place, target in enumerate(group.targets):
            instance, row = target.instance, target.row
            stated = instance.kv_capacity_tokens or ledger.capacity(row)
            if stated:
                block = ledger.block(row) or _BLOCK_TOKENS
                tokens = _held(view.prompt_tokens, answer, instance.max_model_len)
                if ledger.kv(row) + _in_blocks(tokens, block) > max(0, stated - block):
                    found.append(place)
        return found

    def _without_kv_by_array(self, group: Group, view: RequestView) -> list[int]:
        """As `_without_kv_by_loop`."""
        ledger, rows = self._ledger, group.row_index
        sizes, told = group.sizes, ledger.capacities(rows)
        if not sizes.known and not told.any():
            return []
        stated = np.where(sizes.kv_capacity, sizes.kv_capacity, told)
        blocks = ledger.blocks(rows)
        blocks = np.where(blocks, blocks, _BLOCK_TOKENS)
        prompt = view.prompt_tokens
        # As `_held` and `_in_blocks`.
        tokens = np.maximum(np.minimum(prompt + self._answer(view), sizes.longest), prompt)
        promised = np.maximum(-(-tokens // blocks), 1) * blocks
        full = ledger.promises(rows) + promised > np.maximum(0, stated - blocks)
        found: list[int] = np.flatnonzero(full & (stated != 0)).tolist()
        return found

    def promise(self, target: Target, view: RequestView) -> tuple[int, int]:
        """Tokens of KV cache to keep for the request at `target`, in whole blocks, and how many of them are for the
        answer: all that a request with media may generate; of a text request without limit what is expected."""
        prompt = view.prompt_tokens
        tokens = _held(prompt, self._answer(view), target.instance.max_model_len)
        return _in_blocks(tokens, self._ledger.block(target.row) or _BLOCK_TOKENS), tokens - prompt

    def _answer(self, view: RequestView) -> int:
        """The most tokens to keep for the answer."""
        if view.answer_limit is not None:
            return view.answer_limit
        return self._media_answer_tokens if view.media else EXPECTED_ANSWER_TOKENS

    def _capacity(self, target: Target) -> int | None:
        """Tokens of KV cache that fit; vLLM keeps one block for itself. None: not known."""
        ledger, row = self._ledger, target.row
        stated = target.instance.kv_capacity_tokens or ledger.capacity(row)
        return max(0, stated - (ledger.block(row) or _BLOCK_TOKENS)) if stated else None


def _held(prompt: int, answer: int, longest: int | None) -> int:
    """Tokens of a prompt and as much of the answer as there can be of it."""
    tokens = prompt + answer
    return tokens if longest is None or tokens <= longest else longest if prompt < longest else prompt


def _in_blocks(tokens: int, block: int) -> int:
    """Tokens of the blocks that so many need, at least of one."""
    return (-(-tokens // block) or 1) * block


def _usable(group: Group, avoid: Iterable[str]) -> tuple[Target, ...]:
    if not avoid:
        return group.targets
    return tuple(target for target in group.targets if target.endpoint_id not in avoid) or group.targets
