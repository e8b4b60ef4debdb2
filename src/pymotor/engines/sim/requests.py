"""What the engine core is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from pymotor.engines.sim.adapters import Adapter
from pymotor.engines.sim.handoffs import Nowhere, Offer, PushTarget, Source, Target
from pymotor.engines.sim.model import Words


class Status(Enum):
    """Where a request is in the core."""

    WAITING = "waiting"
    WAITING_FOR_KV = "waiting for remote KV"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True)
class MediaItem:
    """One image, video or audio in a prompt, as the core sees it."""

    identifier: str
    """What names its embedding in caches and stores."""
    modality: str
    offset: int
    """Position of its first placeholder token."""
    tokens: int
    metadata: dict[str, Any]
    """What a later stage needs to place it without the media: grid or token count."""
    content_digest: bytes | None
    """Digest of the media the encoder would look at; None where only metadata was given."""


ExtraKeys = tuple[str | tuple[str, int], ...] | None
"""What a block's key depends on besides tokens: an adapter's name, media as identifier and place, a salt."""


@dataclass(frozen=True)
class CacheScope:
    """What tells prompts of equal tokens apart in the prefix cache, and who asked."""

    adapter: Adapter | None = None
    salt: str | None = None
    session_id: str | None = None
    """Told in events only; sessions share blocks."""

    @property
    def plain(self) -> bool:
        """Whether keys depend on tokens and media only."""
        return self.adapter is None and self.salt is None


PLAIN = CacheScope()
"""Of most requests: the base model, no salt, no session."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop."""

    max_tokens: int
    min_tokens: int = 0
    seed: int | None = None
    """None is greedy."""
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False


@dataclass(eq=False)
class Request:
    """One prompt on its way through the core. The first fields are the caller's, the rest the core's."""

    id: str
    tokens: Words
    """Prompt token ids; media placeholders included."""
    sampling: Sampling
    media: tuple[MediaItem, ...] = ()
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    scope: CacheScope = PLAIN

    status: Status = Status.WAITING
    inputs: Words = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    """Prompt ids with embeddings filled in as far as they are known."""
    output: list[int] = field(default_factory=list)
    text: str = ""
    """The output as text, up to a stop string; kept only where stop strings are asked for."""
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    """Prefix-cache keys of the full blocks, output included."""
    computed: int = 0
    """Positions whose KV is in `blocks`."""
    state: int = 0
    readout: int = 0
    cached_tokens: int | None = None
    """Positions that needed no computing at the first scheduling: prefix cache and transfers."""
    source: Source | None = None
    """Where its KV comes from, if not from computing."""
    target: Target | None = None
    """Where its KV goes when the prompt is computed."""
    pulled: bool = False
    """Whether KV came from another engine."""
    ready_media: int = 0
    """Items whose embeddings are in `inputs`, in order."""
    preemptions: int = 0
    scheduled: float | None = None
    """When it was in a batch for the first time, in the clock that `step` is given."""

    @property
    def length(self) -> int:
        """Positions known so far: prompt and output."""
        return len(self.tokens) + len(self.output)

    @property
    def external_id(self) -> str:
        """The id that gateways know: without the dash and the eight digits that the engine adds."""
        return self.id[:-9]


@dataclass(frozen=True)
class Output:
    """One event for one request: a token, an end, or both."""

    request: Request
    token: int | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `error`, `abort`, or None while it goes on."""
    stop_reason: int | str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    embeddings: tuple[Words, ...] = ()
    """What an encoder made of the request's media, in their order."""


@dataclass(frozen=True)
class Awaited:
    """A request whose KV comes from another engine before it can go on."""

    request: Request
    source: Source


@dataclass(frozen=True)
class Handover:
    """A prefilled request whose KV goes to another engine; its blocks are under the lease of its name."""

    output: Output
    """The request's last output; not yet delivered."""
    target: PushTarget | Offer | Nowhere


class EngineDeadError(Exception):
    """The engine core cannot go on; every request it has and gets is lost."""
