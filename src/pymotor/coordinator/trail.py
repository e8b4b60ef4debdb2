"""What happened to one request step by step, for those that want to know: traces and the dashboard.

A step is one leg to one endpoint, or a wait. Legs begin and end in `flows.legs.exchange`; parts, further tries and
streams that are carried on are further steps of the same trail. Times are `monotonic()`, 0.0 where a thing never
happened. Nothing in here is the client's own: no text, no header, no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from time import monotonic, time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymotor.coordinator.scheduling.ledger import TENTHS_PER_ACTIVE_TOKEN, Ledger
from pymotor.coordinator.scheduling.target import Group, Target

if TYPE_CHECKING:
    from pymotor.coordinator.http.upstream import UpstreamConnection
    from pymotor.coordinator.tracing.trace_context import TraceContext

RECEIVE = "receive"
"""Reading a request that did not come at once."""
QUEUE = "queue"
"""Waiting for room at the engines, and until the way is chosen."""
PLACEMENT = "placement"
"""Counting the prompt's tokens, and asking who holds its beginning."""
PAUSE = "pause"
"""Between two tries."""
CANCELLED = "cancelled"
"""Outcome of a step that nobody wanted any more."""
_CANDIDATES = 16


class Candidate(NamedTuple):
    """An endpoint as it was when one was chosen for a leg."""

    endpoint: str
    load_tokens: int
    chosen: bool
    excluded: bool
    """Whether it was not to be chosen: it had failed the request, or had no room."""


class Choice(NamedTuple):
    """How a target was chosen, kept as it was found: most of what is followed nobody ever looks at."""

    endpoint_ids: Sequence[str]
    loads: Sequence[int]
    """Of each in tenths of a token."""
    chosen: str
    chosen_load: int
    excluded: frozenset[str]

    def candidates(self) -> tuple[Candidate, ...]:
        """The chosen one first, then by load; 16 at most."""
        chosen, excluded = self.chosen, self.excluded
        tokens = [load // TENTHS_PER_ACTIVE_TOKEN for load in self.loads]
        others = [
            Candidate(one, tokens[place], chosen=False, excluded=one in excluded)
            for place in sorted(range(len(tokens)), key=tokens.__getitem__)
            if (one := self.endpoint_ids[place]) != chosen
        ]
        own = self.chosen_load // TENTHS_PER_ACTIVE_TOKEN
        first = Candidate(chosen, own, chosen=True, excluded=chosen in excluded)
        return (first, *others[: _CANDIDATES - 1])


class Step:
    """One leg of a request, or a wait."""

    __slots__ = (
        "answer_bytes",
        "began",
        "choice",
        "connection",
        "content",
        "ended",
        "endpoint",
        "instance",
        "item",
        "leg",
        "leg_id",
        "outcome",
        "request_bytes",
        "sent",
        "server",
        "span_id",
        "status",
    )

    def __init__(self, leg: str, began: float) -> None:
        self.leg = leg
        """As metrics name it, or one of the names above."""
        self.endpoint = ""
        """Its id; empty for a wait."""
        self.instance = ""
        self.server = b""
        """Host and port of the endpoint."""
        self.leg_id = b""
        """What the engine knows the request by."""
        self.span_id = b""
        """16 hexadecimal digits that the engine got as its parent; empty without a trace."""
        self.began = began
        self.sent = 0.0
        self.content = 0.0
        """When a stream's first content came."""
        self.ended = 0.0
        self.request_bytes = 0
        """Of the body."""
        self.answer_bytes = 0
        """Of a whole answer's body; 0 for streams, whose bytes nobody counts."""
        self.status = 0
        """The engine's HTTP status; 0: none came."""
        self.outcome = ""
        """Empty: it did its part; else a word for why not, as `LegFailed.reason`."""
        self.item = ""
        """Of encode: which of the request's media items, counted from 0."""
        self.choice: Choice | None = None
        self.connection: UpstreamConnection | None = None
        """Where the answer comes from while it does."""

    @property
    def why(self) -> tuple[Candidate, ...] | None:
        """Who could have been chosen, the chosen one first, then by load."""
        return None if self.choice is None else self.choice.candidates()

    def end(self, outcome: str = "") -> None:
        """It is over."""
        self.ended = monotonic()
        self.connection = None
        if outcome:
            self.outcome = outcome


class Trail:
    """All steps of one request."""

    __slots__ = ("_choices", "finish_reasons", "last_ended", "steps", "trace", "wall")

    def __init__(self, trace: TraceContext | None = None) -> None:
        self.steps: list[Step] = []
        self.trace = trace
        """None: nobody exports it."""
        self.wall = time() - monotonic()
        """What makes a time of day of a step's times, in seconds."""
        self.finish_reasons: tuple[str, ...] = ()
        """Why the choices of a whole answer ended."""
        self.last_ended: Step | None = None
        """The leg that ended last."""
        self._choices: dict[str, Choice] = {}

    def begin_leg(self, leg: str, target: Target, leg_id: bytes, span_id: bytes, request_bytes: int, item: str) -> Step:
        """A leg to `target` begins."""
        step = Step(leg, monotonic())
        step.endpoint = target.endpoint_id
        step.instance = target.instance.name
        step.server = target.host_header
        step.leg_id = leg_id
        step.span_id = span_id
        step.request_bytes = request_bytes
        step.item = item
        step.choice = self._choices.get(target.endpoint_id)
        self.steps.append(step)
        return step

    def end_leg(self, step: Step, outcome: str = "") -> None:
        """A leg is over."""
        step.end(outcome)
        self.last_ended = step

    def begin_wait(self, leg: str, began: float = 0.0, item: str = "") -> Step:
        """A wait begins, or began then; `end` it."""
        step = Step(leg, began or monotonic())
        step.item = item
        self.steps.append(step)
        return step

    def content_came(self, connection: UpstreamConnection | None) -> None:
        """The first content of the stream that comes from there."""
        step = self._open_at(connection)
        if step is not None:
            step.content = monotonic()

    def broke_off(self, connection: UpstreamConnection | None, outcome: str) -> None:
        """The stream that comes from there will not be whole."""
        step = self._open_at(connection)
        if step is not None:
            step.outcome = outcome

    def no_good(self, outcome: str) -> None:
        """The reply of the leg that ended last is of no use."""
        if self.last_ended is not None and not self.last_ended.outcome:
            self.last_ended.outcome = outcome

    def chose(self, ledger: Ledger, group: Group, chosen: Target, excluded: AbstractSet[str]) -> None:
        """`chosen` is to get the next leg; to be told before it is charged with that."""
        ids: Sequence[str] = group.endpoint_ids
        if len(ids) <= _CANDIDATES:
            # Quicker than numpy for so few.
            loads = [ledger.load(row) for row in group.rows]
        else:
            every = ledger.loads(group.row_index)
            least = np.argsort(every // TENTHS_PER_ACTIVE_TOKEN, kind="stable")[:_CANDIDATES]
            ids, loads = [ids[place] for place in least.tolist()], every[least].tolist()
        own, name = ledger.load(chosen.row), chosen.endpoint_id
        self._choices[name] = Choice(ids, loads, name, own, frozenset(excluded))

    def _open_at(self, connection: UpstreamConnection | None) -> Step | None:
        if connection is None:
            return None
        return next((step for step in reversed(self.steps) if step.connection is connection), None)
