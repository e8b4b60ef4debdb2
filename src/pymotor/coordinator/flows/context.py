"""What the flows of one worker share, and what belongs to one request on its way through them."""

from __future__ import annotations

import asyncio
import binascii
import os
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import msgspec

from pymotor.coordinator.admission import Admission
from pymotor.coordinator.affinity.choices import Choice
from pymotor.coordinator.affinity.placement import Placement
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.bootstraps import Bootstraps
from pymotor.coordinator.callbacks import Callbacks
from pymotor.coordinator.flows.aborted import AbortedRequests
from pymotor.coordinator.flows.encoded_media import RequestEncodings
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.framing import chunk
from pymotor.coordinator.http.replies import WholeReply
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.limits.usage import Usage
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.recovery.carrying_on import CARRIED
from pymotor.coordinator.recovery.circuits import Circuits
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer
from pymotor.coordinator.recovery.retry_budget import RetryBudget
from pymotor.coordinator.scheduling.closed_endpoints import ClosedEndpoints
from pymotor.coordinator.scheduling.encodings import Encodings
from pymotor.coordinator.scheduling.item_claims import ItemClaims
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Held, Policy, Reservation, Target
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.trail import Trail

_LARGE = 65536
"""Bytes from which a body is worth letting go of while its answer is streamed."""
_SMALL = 1024


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
            return self.circuits.choose(choice, group, avoid, monotonic())
        return choice.choose(group, avoid) or choice.choose(group, frozenset()) or group.targets[0]

    def peek(self, group: Group, avoid: frozenset[str]) -> Target:
        """Who would be chosen by load alone; no leg begins."""
        return self.policy.choose(group, avoid) or self.policy.choose(group, frozenset()) or group.targets[0]


class Beside(NamedTuple):
    """A leg that runs at the same time as the last one."""

    leg: str
    target: Target
    since: float
    """`monotonic()` of its beginning."""


class Context(msgspec.Struct, eq=False):
    """One client's request on its way. A `Struct` because making one has to cost little."""

    services: Services
    settings: Settings
    """Those that hold when it begins; it keeps them when the worker gets others."""
    client: ClientConnection
    request: ClientRequest
    view: RequestView
    label: str
    """The path as metrics name it."""
    engine_path: bytes
    started_at: float
    """`monotonic()`, as is the next."""
    whole_by: float
    media_items: int
    forwarded: bytes = b""
    """Lines of the client's head that engines get too."""
    trail: Trail | None = None
    """What happens to it step by step; None where nobody wants to know."""
    answering: Reservation | None = None
    """The newest reservation for the leg that generates the answer; what is generated makes it grow."""
    kept: bool = True
    """Whether the request's body is kept until the first content, so that the request can be tried again."""
    kept_size: int = 0
    """Bytes of it that count among those the process keeps."""
    repeats: bool = False
    """Whether the request may be sent again even after the first content."""
    sending: Sequence[bytes | memoryview] = ()
    """What the leg that answers is sent."""
    so_far: AnswerSoFar | RepeatableAnswer | None = None
    """What has to be known to carry the answer on when its stream breaks off; None where it cannot be."""
    failed: tuple[str, ...] = ()
    """Endpoints that failed this request, the newest failure last; see `spare`."""
    avoid: frozenset[str] = frozenset()
    """The same as a set."""
    fetching: Held | None = None
    """Encoders whose embeddings the stage that reads them has yet to fetch."""
    encoded: RequestEncodings | None = None
    """What is known of the request's media by now."""
    without_decode: bool = False
    """Whether it is too large for the KV cache of any decode endpoint."""
    committed: bool = False
    """Whether the client has been sent a response's head."""
    opened: bool = False
    """Whether a stream's head went out before any content; see `keepalive`."""
    choice: Choice | None = None
    """Its own policy, where more than load decides; None: the worker's."""
    beside: Beside | None = None
    """The leg that the last one waits for while both run."""
    status: int = 0
    leg_id: bytes = b""
    """The newest leg's: by it engines know the request."""
    first_token_seconds: float | None = None
    """From the request until the client was sent its first content."""
    answer_bytes: int = 0
    """Of a whole answer."""
    answer_events: int = 0
    """Of a stream from its first content on."""
    counted: bool = False
    """Whether metrics have the request already; always of a part, since who has the whole counts."""
    handed_over_at: float = 0.0
    """`monotonic()` of the end of prefill's reply; 0: there is none, or decode has had content since."""
    events: int = 0
    """Events of a stream that the client was sent, counted in lots of `relay.GROWTH` and at the end."""
    usage: Usage | None = None
    """What a whole answer says that it cost; only read where it is counted."""
    legs: list[tuple[str, str, float]] = []
    """Name, instance and milliseconds of each leg so far, for `Server-Timing`."""

    @staticmethod
    def begin(
        services: Services,
        client: ClientConnection,
        request: ClientRequest,
        view: RequestView,
        forwarded: bytes = b"",
        trail: Trail | None = None,
    ) -> Context:
        """A request that sets out now."""
        settings = services.settings
        surface = view.surface
        started_at = request.received_at
        whole_by = started_at + settings.infer_timeout
        return Context(
            services,
            settings,
            client,
            request,
            view,
            surface.label,
            surface.path,
            started_at,
            whole_by,
            len(view.media),
            forwarded,
            trail,
        )

    def __repr__(self) -> str:
        # Not what it holds: prompts stay out of logs.
        return f"<Context of {self.label}>"

    def spare(self, *endpoint_ids: str) -> None:
        """They have failed this request, the last one last."""
        self.failed = (*[one for one in self.failed if one not in endpoint_ids], *endpoint_ids)
        self.avoid = frozenset(self.failed)

    def spared(self) -> frozenset[str]:
        """Endpoints that get no leg of this request while others are left: they failed it, their circuits are open, or
        they do not serve any more."""
        circuits = self.services.circuits
        avoid = self.avoid | self.services.closed.ids if self.services.closed.ids else self.avoid
        return avoid | circuits.barred(monotonic()) if circuits.tripped else avoid

    def keep_body(self) -> None:
        """Keep the body as long as it may be needed again, unless the process keeps enough of them."""
        services = self.services
        size = self.view.size
        if services.kept_bytes + size > self.settings.recovery_buffer_bytes:
            self.kept = False
            return
        services.kept_bytes += size
        self.kept_size = size

    def uncount_body(self) -> None:
        """The body does not count any more."""
        self.services.kept_bytes -= self.kept_size
        self.kept_size = 0

    def drop_body(self) -> None:
        """Nobody will be sent the request again: let go of what is large in it."""
        if self.repeats:
            return
        self.uncount_body()
        view = self.view
        if view.size < _LARGE:
            return
        # Copies: a raw value holds on to the whole body that it is a part of.
        small = {
            name: bytes(raw) for name, raw in view.fields.items() if len(memoryview(raw)) < _SMALL or name in CARRIED
        }
        view.fields = {name: msgspec.Raw(value) for name, value in small.items()}
        view.body = ()
        view.media = []
        view.contents = {}
        view.prompts = []
        self.request.body = b""
        if isinstance(self.sending, list):
            self.sending.clear()

    def for_part(self, view: RequestView) -> Context:
        """The same request reduced to one of its several answers; legs are noted together."""
        part = Context.begin(self.services, self.client, self.request, view, self.forwarded, self.trail)
        part.settings = self.settings
        part.whole_by = self.whole_by
        part.spare(*self.failed)
        part.legs = self.legs
        part.label = self.label
        part.counted = True
        part.encoded = self.encoded
        # Another prompt begins otherwise; an answer that is carried on begins alike.
        part.choice = self.choice if not self.view.prompts else None
        return part

    def awaits_fetch(self, target: Target) -> None:
        """A leg at `target` is over, and what it made is yet to be fetched from there."""
        if self.fetching is None:
            self.fetching = Held()
        self.fetching.add(target)

    def note_fetched(self) -> None:
        """What encoders made was fetched, or never will be."""
        if self.fetching is not None:
            self.fetching.end()
            self.fetching = None

    def note_leg(self, leg: str, target: Target, seconds: float) -> None:
        """A leg has got as far as `Server-Timing` tells."""
        if self.beside is not None:
            self.note_beside(leg)
        self.legs.append((leg, target.instance.name, seconds * 1000))

    def note_beside(self, leg: str) -> None:
        """The same for the leg beside `leg`: it has done its part, or this one would not have got so far."""
        beside, self.beside = self.beside, None
        if beside is not None and leg != beside.leg:
            self.legs.append((beside.leg, beside.target.instance.name, (monotonic() - beside.since) * 1000))

    def begin_stream(self, content_type: bytes, events: bytes) -> None:
        """The first content of a stream goes to the client, with the head if that is not out yet."""
        self.note_commit()
        framed = chunk(events) if self.request.http_11 else events
        if self.opened:
            self.client.write(framed)
        else:
            self.client.begin_stream(self.services.heads.stream(self.request, content_type, self.legs), framed)

    def end_stream(self, last: bytes = b"") -> None:
        """`last`, whole events or nothing, and the end of the stream go to the client."""
        client = self.client
        client.on_writable = None
        if self.request.http_11:
            client.end_stream(last)
            return
        # HTTP/1.0 has no chunks: the end of the connection is the end of the stream.
        client.responding = False
        self.request.keep_alive = False
        if last:
            client.write(last)

    def note_handoff(self, target: Target) -> None:
        """The first content of a stream has come from `target`, which may have got its KV cache from elsewhere."""
        if self.handed_over_at:
            self.services.instruments.handoff(target.instance.name, monotonic() - self.handed_over_at)
            self.handed_over_at = 0.0

    def count(self, status: int) -> None:
        """The request is over, if that was not known before. Call it before the last bytes go out: what a client has
        got is then counted, whatever becomes of this process."""
        if not self.counted:
            self.counted = True
            self.services.instruments.request(self.label, status, monotonic() - self.started_at)

    def note_commit(self) -> None:
        """The first content goes to the client."""
        self.committed = True
        self.first_token_seconds = seconds = monotonic() - self.started_at
        self.services.instruments.first_token(self.label, seconds)
