"""Where the engines of the fleet publish their events: as they say themselves, as they were planned, as configured.

Only the host of an endpoint of the fleet is ever connected to, whatever an engine says: of its answer ports and topics
count, hosts do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pymotor.fleet import Endpoint, KVEvents

MOST_RANKS = 512
"""Of one endpoint."""


class SourceError(Exception):
    """Nobody says where an endpoint publishes events; the message says why."""


class EventSource(msgspec.Struct, frozen=True, kw_only=True):
    """One publisher: one rank of an endpoint."""

    endpoint: str
    """Its id in the fleet."""
    rank: int
    """Data parallel rank."""
    rank_known: bool = True
    """Whether its batches name this rank, if they name one: engines number their ports and their batches alike."""
    host: str
    port: int
    replay_port: int | None = None
    topic: str = ""


class _Answered(msgspec.Struct, frozen=True):
    """Of one rank, as vLLM 0.32 answers; what else it says does not matter here."""

    endpoint: str = ""
    replay_endpoint: str | None = None
    topic: str = ""
    enable_kv_cache_events: bool = True
    publisher: str | None = "zmq"


class _Card(msgspec.Struct, frozen=True):
    id: str
    parent: str | None


class _Cards(msgspec.Struct, frozen=True):
    data: list[_Card]


_answers = msgspec.json.Decoder(dict[str, _Answered])
_cards = msgspec.json.Decoder(_Cards)


def host_of(endpoint: Endpoint) -> str:
    """Of its URL. Raises `SourceError`."""
    try:
        host = urlsplit(endpoint.url).hostname
    except ValueError as error:
        raise SourceError(f"{endpoint.url!r} is no URL: {error}") from error
    if not host:
        raise SourceError(f"{endpoint.url!r} names no host")
    return host


def answered_sources(endpoint: Endpoint, body: bytes) -> tuple[EventSource, ...]:
    """What the engine answers to `GET /kv_event_sources`: an object of ranks; empty where it publishes nothing.

    Raises `SourceError` for an answer that cannot be used.
    """
    try:
        answered = _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"it answers /kv_event_sources with something else: {error}") from error
    if len(answered) > MOST_RANKS:
        raise SourceError(f"it answers /kv_event_sources with more than {MOST_RANKS} ranks")
    events = []
    for rank, one in sorted(answered.items(), key=lambda item: len(item[0])):
        if not one.enable_kv_cache_events or one.publisher != "zmq":
            continue
        replay = _port_in(one.replay_endpoint) if one.replay_endpoint else None
        events.append(KVEvents(rank=_rank_in(rank), port=_port_in(one.endpoint), replay_port=replay, topic=one.topic))
    return _sources(endpoint, events)


def own_names(body: bytes) -> frozenset[str]:
    """The names of the model itself in what an engine answers to `GET /v1/models`: those without a parent. None of an
    answer that does not tell."""
    try:
        cards = _cards.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
    adapters = {card.id for card in cards if card.parent is not None}
    return frozenset(card.id for card in cards) - adapters


def planned_sources(endpoint: Endpoint) -> tuple[EventSource, ...]:
    """What whoever started the engine told it to do; empty where that is not known."""
    return _sources(endpoint, endpoint.kv_events)


def configured_sources(endpoint: Endpoint, options: Mapping[str, Any], ranks: int) -> tuple[EventSource, ...]:
    """What `kv_events_config` among the options of the role's own section says; empty where it publishes nothing.

    Ports count up by rank, of which the endpoint has its own or all `ranks`. Raises `SourceError`.
    """
    events = options.get("kv_events_config")
    if not isinstance(events, Mapping) or not events.get("enable_kv_cache_events"):
        return ()
    if events.get("publisher", "zmq") != "zmq":
        return ()
    port = _port_in(str(events.get("endpoint") or ""))
    stated = events.get("replay_endpoint")
    replay = _port_in(str(stated)) if stated else None
    own = range(ranks) if endpoint.data_parallel_rank is None else [endpoint.data_parallel_rank]
    topic = str(events.get("topic") or "")
    planned = [
        KVEvents(rank=rank, port=port + rank, replay_port=replay + rank if replay is not None else None, topic=topic)
        for rank in own
    ]
    return _sources(endpoint, planned)


def _sources(endpoint: Endpoint, events: list[KVEvents] | tuple[KVEvents, ...]) -> tuple[EventSource, ...]:
    """A server of one rank may tell of all of them: the others are behind endpoints of their own."""
    own = endpoint.data_parallel_rank
    if own is not None and any(one.rank == own for one in events):
        events = [one for one in events if one.rank == own]
    host = host_of(endpoint) if events else ""
    return tuple(
        EventSource(
            endpoint=endpoint.id,
            rank=one.rank,
            host=host,
            port=one.port,
            replay_port=one.replay_port,
            topic=one.topic,
        )
        for one in sorted(events, key=lambda one: one.rank)
    )


def _rank_in(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise SourceError(f"it names a rank {text[:40]!r} in /kv_event_sources")
    return int(text)


def _port_in(address: str) -> int:
    scheme, _, rest = address.partition("://")
    port = rest.rpartition(":")[2]
    if scheme != "tcp" or not (port.isascii() and port.isdecimal() and 0 < len(port) < 6 and 0 < int(port) < 65536):
        raise SourceError(f"{address[:80]!r} is no address tcp://HOST:PORT to follow")
    return int(port)
