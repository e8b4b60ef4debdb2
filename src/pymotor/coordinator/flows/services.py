"""What the flows of one worker share."""

from __future__ import annotations

import asyncio
import binascii
import os
from time import monotonic

from pymotor.coordinator.admission import Admission
from pymotor.coordinator.affinity.choices import Choice, Decision
from pymotor.coordinator.affinity.placement import Placement
from pymotor.coordinator.bootstraps import Bootstraps
from pymotor.coordinator.callbacks import Callbacks
from pymotor.coordinator.flows.aborted import AbortedRequests
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.coordinator.recovery.circuits import Circuits
from pymotor.coordinator.recovery.retry_budget import RetryBudget
from pymotor.coordinator.scheduling.closed_endpoints import ClosedEndpoints
from pymotor.coordinator.scheduling.encodings import Encodings
from pymotor.coordinator.scheduling.item_claims import ItemClaims
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Policy, Target
from pymotor.coordinator.settings import Settings


class RequestIds:
    """Ids that nobody can guess, from a stock of random bytes: a call for each request would cost more."""

    __slots__ = ("_position", "_stock")

    def __init__(self) -> None:
        self._stock = b""
        self._position = 0

    def next(self) -> bytes:
        """32 hexadecimal digits."""
        if self._position >= len(self._stock):
            self._stock = binascii.hexlify(os.urandom(4096))
            self._position = 0
        start = self._position
        self._position = start + 32
        return self._stock[start : start + 32]


class Services:
    """What every request of a worker uses."""

    __slots__ = (
        "aborted",
        "admission",
        "bootstraps",
        "callbacks",
        "circuits",
        "closed",
        "counts_usage",
        "encodings",
        "heads",
        "ids",
        "instruments",
        "item_claims",
        "kept_bytes",
        "ledger",
        "loop",
        "placement",
        "policy",
        "retry_budget",
        "settings",
        "tokenizer",
        "turns",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        settings: Settings,
        ledger: Ledger,
        policy: Policy,
        instruments: Instruments,
        heads: ResponseHeads,
        callbacks: Callbacks,
        bootstraps: Bootstraps,
        tokenizer: PromptTokens | None = None,
        placement: Placement | None = None,
        counts_usage: bool = False,
    ) -> None:
        """`counts_usage`: whether anybody wants to know what answers cost."""
        self.loop = loop
        self.tokenizer = tokenizer
        self.placement = placement
        """What finds out more about a request than load before endpoints are chosen; None: nobody."""
        self.counts_usage = counts_usage
        self.admission = admission
        self.settings = settings
        self.ledger = ledger
        self.policy = policy
        self.instruments = instruments
        self.heads = heads
        self.callbacks = callbacks
        self.bootstraps = bootstraps
        self.ids = RequestIds()
        self.aborted = AbortedRequests()
        # Whoever chooses endpoints without `choose`: `if circuits.tripped:` then leave out those in
        # `circuits.barred(now)` as long as another is left, and call `circuits.probe(target, now)` with the one
        # chosen. While all circuits are closed that one test is the whole cost.
        self.circuits = Circuits(
            settings.circuit_failures,
            settings.circuit_pause,
            settings.circuit_longest_pause,
            changed=instruments.circuit,
        )
        self.retry_budget = RetryBudget(settings.retry_budget_ratio, settings.retry_budget_floor, monotonic())
        self.kept_bytes = 0
        """Of request bodies that are kept for further tries."""
        self.encodings = Encodings(loop, reuse_seconds=settings.reuse_seconds, reuse_bytes=settings.reuse_bytes)
        self.item_claims = ItemClaims(ledger)
        self.closed = ClosedEndpoints()
        self.turns = 0
        """Requests that had more than one group of endpoints to go to, of which equals take turns."""

    def make_reply(self) -> WholeReply:
        """What an engine's reply is collected in."""
        return WholeReply(self.loop.create_future())

    def use(self, settings: Settings) -> None:
        """Requests that begin from now on have these settings. What all requests share is changed where it is kept, and
        keeps what it knows: open circuits, tries that were spent, items in the store."""
        self.settings = settings
        self.heads = ResponseHeads(server_timing=settings.server_timing, cors=settings.cors)
        self.admission.use(settings.limits)
        self.circuits.use(settings.circuit_failures, settings.circuit_pause, settings.circuit_longest_pause)
        self.retry_budget.use(settings.retry_budget_ratio, settings.retry_budget_floor)
        self.encodings.use(reuse_seconds=settings.reuse_seconds, reuse_bytes=settings.reuse_bytes)

    def choose(self, group: Group, avoid: frozenset[str]) -> Target:
        """By policy, for a leg that is about to begin; one that failed this request only when no other is left, and
        before it those whose circuits are open. The group is not empty."""
        if self.circuits.tripped:
            return self.circuits.choose(self.policy, group, avoid, monotonic())
        return self.policy.choose(group, avoid) or self.policy.choose(group, frozenset()) or group.targets[0]

    def choose_by(self, choice: Choice, group: Group, avoid: frozenset[str]) -> Target:
        """As `choose`, by the request's own policy."""
        if self.circuits.tripped:
            now = monotonic()
            # Before a probe bars the endpoint that gets it.
            barred = self.circuits.barred(now)
            target = self.circuits.choose(choice, group, avoid, now)
            choice.decisions[-1] = choice.decisions[-1].among(group, barred, self.ledger)
            return target
        return choice.choose(group, avoid) or choice.choose(group, frozenset()) or group.targets[0]

    def look_by(self, choice: Choice, group: Group, avoid: frozenset[str]) -> Decision | None:
        """What `choose_by` would decide now; no leg begins, no probe is spent, and nobody's turn passes."""
        if self.circuits.tripped:
            now = monotonic()
            rest = self.circuits.without_barred(group, now)
            found = choice.look(rest, avoid) if rest.targets else None
            if found is not None:
                return found.among(group, self.circuits.barred(now), self.ledger)
        return choice.look(group, avoid) or choice.look(group, frozenset())

    def peek(self, group: Group, avoid: frozenset[str]) -> Target:
        """Who would be chosen by load alone; no leg begins, and whose turn it is stays as it was."""
        turn = group.cursor
        found = self.policy.choose(group, avoid) or self.policy.choose(group, frozenset()) or group.targets[0]
        group.cursor = turn
        return found
