"""Everybody who is followed: the endpoints of the fleet, and those that were registered.

An endpoint of the fleet is followed while its instance takes requests and it is ready itself. Its blocks are forgotten
with anything else: drained, restarted, elsewhere, gone. A snapshot that is not complete lets nobody go.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from pymotor.config import UserConfig
from pymotor.control_plane.tls import ClientTLS
from pymotor.fleet import Endpoint, EndpointState, FleetSnapshot, Instance, InstanceState
from pymotor.fleet.prefix_queries import PrefixQuery
from pymotor.kv_conductor.answers import Answers
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.discovery import FOLLOWED_ROLES, Discovery
from pymotor.kv_conductor.followed_endpoint import FollowedEndpoint
from pymotor.kv_conductor.instruments import Figures
from pymotor.kv_conductor.intake import Intake
from pymotor.kv_conductor.registered import (
    MOST_REGISTERED,
    NotRegisteredError,
    Registration,
    RegistrationError,
    Unregistration,
)
from pymotor.kv_conductor.replay_room import ReplayRoom
from pymotor.kv_conductor.sources import EventSource
from pymotor.kv_conductor.standing import Standing
from pymotor.kv_conductor.subscriber import Subscriber

logger = logging.getLogger(__name__)


class Following:
    """Who is followed, and how it stands with each."""

    def __init__(
        self,
        user: UserConfig | None,
        figures: Figures,
        tell: Callable[[], None],
        tls: ClientTLS | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`user`: the configuration, where engines do not say where they publish. `tell` is called when
        `answers.followed` is new. `tls`: for engines at https addresses. `environment` has the engines' key, where
        there is one. To be made within the event loop."""
        self.answers = Answers(ConductorCore(), tell)
        self._figures = figures
        self._discovery = Discovery(user, tls, _engine_key(user, environment))
        self._intake = Intake(asyncio.get_running_loop())
        self._replay_room = ReplayRoom()
        self._fleet: dict[str, tuple[Instance, Endpoint, FollowedEndpoint]] = {}
        self._registered: dict[str, tuple[Registration, FollowedEndpoint]] = {}
        self._ending: set[FollowedEndpoint] = set()
        """Those that may still have their slots."""
        self._places: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By endpoint; whoever follows it, or is to, has it."""

    # -- the fleet

    def take_fleet(self, snapshot: FleetSnapshot) -> None:
        """Follow those of this snapshot; a registration of the same name ends."""
        wanted = {
            endpoint.id: (instance, endpoint)
            for instance in snapshot.instances
            if instance.role in FOLLOWED_ROLES and instance.state is InstanceState.ACTIVE
            for endpoint in instance.endpoints
            if endpoint.state is EndpointState.READY
        }
        named = {endpoint.id for instance in snapshot.instances for endpoint in instance.endpoints}
        for name, (instance, endpoint, followed) in list(self._fleet.items()):
            now = wanted.get(name)
            if now is None and not snapshot.complete and name not in named:
                continue
            if now is None or not _same(instance, endpoint, *now):
                del self._fleet[name]
                self._end(followed)
        for name, (instance, endpoint) in wanted.items():
            if name not in self._fleet:
                asked = self._discovery.engine(instance, endpoint)
                self._end_registration(name)
                followed = FollowedEndpoint(
                    name,
                    instance.name,
                    instance.models,
                    asked.sources,
                    self._subscribe,
                    self._place(name),
                    asked.aliases,
                )
                self._fleet[name] = (instance, endpoint, followed)

    # -- what is registered

    def register(self, registration: Registration) -> None:
        """Follow one more publisher; one that is registered already is followed where it is now. Raises
        `RegistrationError`."""
        source = registration.source()
        name = source.endpoint
        if name in self._fleet:
            raise RegistrationError(f"{name} is an endpoint of the fleet")
        known, former = self._registered.get(name, (None, None))
        if known == registration:
            return
        if former is None and len(self._registered) >= MOST_REGISTERED:
            raise RegistrationError(f"{MOST_REGISTERED} publishers are registered already")
        if former is not None:
            self._end(former)

        async def find() -> tuple[EventSource, ...]:
            return (source,)

        followed = FollowedEndpoint(
            name, registration.instance_id, (registration.modelname,), find, self._subscribe, self._place(name)
        )
        self._registered[name] = (registration, followed)

    def unregister(self, gone: Unregistration) -> None:
        """Follow it no more. Raises `NotRegisteredError`."""
        _, followed = self._registered.pop(gone.endpoint_id, (None, None))
        if followed is None:
            raise NotRegisteredError(f"rank {gone.dp_rank} of {gone.instance_id!r} is not registered")
        self._end(followed)

    def _end_registration(self, name: str) -> None:
        """The fleet has an endpoint of this name and knows better where it is."""
        _, followed = self._registered.pop(name, (None, None))
        if followed is not None:
            logger.warning("%s was registered, and is an endpoint of the fleet now: the registration ends", name)
            self._end(followed)

    # -- subscribers

    def _place(self, name: str) -> asyncio.Lock:
        return self._places.setdefault(name, asyncio.Lock())

    @contextlib.contextmanager
    def _subscribe(
        self, followed: FollowedEndpoint, sources: Sequence[EventSource]
    ) -> Iterator[tuple[Subscriber, ...]]:
        """Raises `TooManyHoldersError`."""
        with self.answers.holding(followed.endpoint, followed.models, len(sources), followed.aliases) as views:
            yield tuple(
                Subscriber(
                    source,
                    view,
                    self._intake,
                    self._figures,
                    self._replay_room,
                    ask_again=followed.ask_again,
                    changed=lambda: self.answers.count(followed.endpoint, counted=followed.live),
                    forgotten=lambda: self.answers.forget_routed(followed.endpoint),
                )
                for source, view in zip(sources, views, strict=True)
            )

    def _end(self, followed: FollowedEndpoint) -> None:
        """Nothing of it counts from now on; its slots are free when its task has ended, which is soon."""
        self.answers.count(followed.endpoint, counted=False)
        self._ending.add(followed)
        followed.cancel(functools.partial(self._ending.discard, followed))

    async def close(self) -> None:
        """End everything."""
        for followed in self._everybody:
            self._end(followed)
        self._fleet.clear()
        self._registered.clear()
        for followed in list(self._ending):
            await followed.wait_ended()
        self.answers.close()
        await self._discovery.close()

    # -- what people see

    @property
    def _everybody(self) -> list[FollowedEndpoint]:
        return [followed for _, _, followed in self._fleet.values()] + [
            followed for _, followed in self._registered.values()
        ]

    def by_standing(self) -> dict[str, int]:
        """How many publishers there are of each standing."""
        counted = Counter(one.standing for followed in self._everybody for one in followed.subscribers)
        return {standing.value: counted[standing] for standing in Standing}

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self._figures.set_sources(self.by_standing())
        self.answers.measure(self._figures)

    def described(self) -> list[dict[str, Any]]:
        """Each endpoint with its publishers."""
        return [_described(followed) for followed in self._everybody]

    def matched(self, query: PrefixQuery) -> dict[str, Any]:
        """Who holds how much of a prompt, by instance, with ranks as Mooncake's conductor has them."""
        instances: dict[str, dict[str, Any]] = {}
        instance_of = {followed.endpoint: followed.instance for followed in self._everybody}
        for matched in self.answers.explained(query):
            instance = instance_of.get(matched.endpoint)
            if instance is None or not matched.expected:
                continue
            answer = instances.setdefault(instance, {"longest_matched": 0, "DP": {}, "endpoints": {}})
            rank = matched.endpoint.rpartition("/")[2]
            answer["longest_matched"] = max(answer["longest_matched"], matched.in_any_tier)
            answer["DP"][rank] = matched.in_any_tier
            answer["endpoints"][matched.endpoint] = {
                "on_device": matched.on_device,
                "in_any_tier": matched.in_any_tier,
                "expected": matched.expected,
            }
        return instances


def _same(instance: Instance, endpoint: Endpoint, instance_now: Instance, endpoint_now: Endpoint) -> bool:
    """Whether it is followed in the same way."""
    return (
        endpoint == endpoint_now
        and instance.models == instance_now.models
        and instance.role is instance_now.role
        and instance.pairing == instance_now.pairing
        and len(instance.endpoints) == len(instance_now.endpoints)
    )


def _engine_key(user: UserConfig | None, environment: Mapping[str, str]) -> str:
    variable = user.motor_coordinator_config.http_config.engine_api_key_env if user is not None else ""
    return environment.get(variable, "") if variable else ""


def _described(followed: FollowedEndpoint) -> dict[str, Any]:
    return {
        "endpoint": followed.endpoint,
        "instance": followed.instance,
        "models": list(followed.models),
        "live": followed.live,
        "why": followed.why,
        "sources": [_source_described(one) for one in followed.subscribers],
    }


def _source_described(one: Subscriber) -> dict[str, Any]:
    source = one.source
    host = f"[{source.host}]" if ":" in source.host else source.host
    return {
        "rank": source.rank,
        "events": f"tcp://{host}:{source.port}",
        "replay": f"tcp://{host}:{source.replay_port}" if source.replay_port is not None else None,
        "topic": source.topic,
        "standing": one.standing.value,
        "why": one.why,
        "last_sequence": one.learned.order.last,
        "blocks": len(one.learned.view),
        "block_size": one.learned.view.block_size,
        "passed_over": one.learned.view.counts.by_reason(),
    }
