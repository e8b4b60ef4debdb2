"""What belongs to one request on its way through the flows."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import msgspec

from pymotor.coordinator.affinity.choices import Choice
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.encoded_media import RequestEncodings
from pymotor.coordinator.flows.services import Services
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.framing import chunk
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.limits.usage import Usage
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar
from pymotor.coordinator.recovery.carrying_on import CARRIED
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer
from pymotor.coordinator.scheduling.target import Held, Reservation, Target
from pymotor.coordinator.settings import Settings
from pymotor.coordinator.trail import Trail

_LARGE = 65536
"""Bytes from which a body is worth letting go of while its answer is streamed."""
_SMALL = 1024


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
    turn: int = 0
    """Its number among `Services.turns`; 0: it has none yet. It keeps it, however often its way is looked for."""
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
