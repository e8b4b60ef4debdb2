"""The fleet of a proxy: the engines of the command line, those that were added, and what each of them answers.

There is no Controller here: a task for each engine asks it whether it is well, and every change makes a snapshot.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import NamedTuple

import httpx

from pymotor.coordinator.fleet_source import FleetSource
from pymotor.coordinator.proxy.addresses import Address
from pymotor.coordinator.proxy.flags import Listed
from pymotor.coordinator.proxy.handoffs import Handoffs
from pymotor.coordinator.proxy.inquiry import EngineSilent, EngineUnwell, ask_models, check_health, client
from pymotor.coordinator.proxy.member import Member, Phase
from pymotor.fleet import FleetSnapshot, Role

logger = logging.getLogger(__name__)

_TOGETHER = 0.02
"""Seconds for which changes are gathered into one snapshot."""
_MODELS_EVERY = 12
"""Looks at an engine's health for each at its models: adapters come and go."""
_SOONEST = 1.0
"""Seconds between two looks at an engine that does not serve, at most."""
_LOOKS_A_SECOND = 50
"""At all engines together: of many each is looked at more seldom, for it costs a processor something."""
_DRAIN_LOOK = 0.1


class Care(NamedTuple):
    """How often engines are asked; seconds."""

    health_interval: float = 5.0
    waiting_interval: float = 10.0
    waiting_tries: int = 3


class NotInFleetError(LookupError):
    """An engine is to be removed that is not there; the message names it."""


class StaticFleet(FleetSource):
    """A `FleetSource` of engines that are asked by the proxy itself."""

    def __init__(
        self,
        listed: Iterable[Listed],
        handoffs: Handoffs,
        care: Care,
        *,
        key: str = "",
        media_path: str = "",
    ) -> None:
        """`key` is the engines' `--api-key`, `media_path` their `--allowed-local-media-path`."""
        self._handoffs = handoffs
        self._care = care
        self._key = key
        self._media_path = media_path
        self._numbers = {role: itertools.count() for role in Role}
        self._members: list[Member] = []
        self._watching: dict[Member, asyncio.Task[None]] = {}
        self._asking: httpx.AsyncClient | None = None
        self._changed = asyncio.Event()
        self._to_be_told: list[asyncio.Future[None]] = []
        self.in_flight: Callable[[str], int] = lambda _endpoint_id: 0
        """How many requests an endpoint has; an engine leaves when it has none."""
        for role, address in listed:
            self._take(role, address, None)

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """The fleet at every change; engines are asked as long as it is listened to."""
        async with client(self._key) as self._asking:
            try:
                for member in self._members:
                    self._watch(member)
                for version in itertools.count(1):
                    self._changed.clear()
                    waiting, self._to_be_told = self._to_be_told, []
                    instances = tuple(one.instance(self._handoffs, self._media_path) for one in self._members)
                    yield FleetSnapshot(version=version, instances=instances)
                    for told in waiting:
                        if not told.done():
                            told.set_result(None)
                    await self._changed.wait()
                    await asyncio.sleep(_TOGETHER)
            finally:
                self._asking = None
                tasks = list(self._watching.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # -- what operators ask for

    def addresses(self, role: Role) -> list[Address]:
        """The engines of a role that get requests or will, in the order they came."""
        return [member.address for member in self._members if member.role is role and member.phase is not Phase.LEAVING]

    def members(self) -> Sequence[Member]:
        """All engines, also those that are leaving."""
        return tuple(self._members)

    def add(self, role: Role, addresses: Iterable[Address]) -> list[Address]:
        """Take engines in, which get requests as soon as they answer; returns those that were not there already."""
        added: list[Address] = []
        for address in addresses:
            member = self._find(role, address)
            if member is not None and member.phase is not Phase.LEAVING:
                continue
            added.append(address)
            if member is not None:
                member.stay()
                logger.info("%s (%s) was to leave and stays", member.name, member.address)
            else:
                member = self._take(role, address, self._care.waiting_tries)
                logger.info("%s (%s) is added and gets requests when it answers", member.name, member.address)
                if self._asking is not None:
                    self._watch(member)
        self._changed.set()
        return added

    def remove(self, role: Role, addresses: Iterable[Address]) -> list[Address]:
        """These get nothing new and are forgotten when nothing runs on them. Raises `NotInFleetError`, and then
        removes none."""
        leaving: dict[str, Member] = {}
        for address in addresses:
            member = self._find(role, address)
            if member is None or member.phase is Phase.LEAVING:
                raise NotInFleetError(f"there is no {role.value} instance {address}")
            leaving[member.name] = member
        for member in leaving.values():
            logger.info("%s (%s) is removed: it finishes what it has", member.name, member.address)
            member.leave()
        self._changed.set()
        return [member.address for member in leaving.values()]

    async def told(self) -> None:
        """Return when whoever listens to `snapshots` has taken over what was changed until now."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._to_be_told.append(told)
        self._changed.set()
        await told

    async def forget_drained(self) -> None:
        """For ever: forget engines that were removed and have nothing to do any more."""
        idle: set[str] = set()
        while True:
            await asyncio.sleep(_DRAIN_LOOK)
            leaving = [member for member in self._members if member.phase is Phase.LEAVING]
            still = {member.name for member in leaving if not self.in_flight(member.endpoint_id)}
            for member in leaving:
                # Idle twice in a row: a worker may have heard of it a moment after we did.
                if member.name in idle and member.name in still:
                    logger.info("%s (%s) has finished and is gone", member.name, member.address)
                    self._forget(member)
            idle = still

    def _find(self, role: Role, address: Address) -> Member | None:
        return next((one for one in self._members if one.role is role and one.address.socket == address.socket), None)

    def _take(self, role: Role, address: Address, tries: int | None) -> Member:
        member = Member(role, address, next(self._numbers[role]), tries)
        self._members.append(member)
        return member

    def _forget(self, member: Member) -> None:
        self._members.remove(member)
        task = self._watching.pop(member, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._changed.set()

    # -- one engine

    def _watch(self, member: Member) -> None:
        task = asyncio.get_running_loop().create_task(self._keep_asking(member))
        self._watching[member] = task
        task.add_done_callback(_tell)

    async def _keep_asking(self, member: Member) -> None:
        care = self._care
        for look in itertools.count():
            if await self._ask(member, with_models=look % _MODELS_EVERY == 0):
                self._changed.set()
            if member.given_up:
                logger.warning(
                    "%s (%s) has not answered %d times and is given up; add it again when it runs: %s",
                    *(member.name, member.address, care.waiting_tries, member.fault),
                )
                self._forget(member)
                return
            if member.phase is Phase.EXPECTED and member.tries_left is not None:
                await asyncio.sleep(care.waiting_interval)
                continue
            away = member.phase in (Phase.EXPECTED, Phase.UNWELL)
            interval = min(_SOONEST, care.health_interval) if away else care.health_interval
            # Not all at the same moment.
            await asyncio.sleep(max(interval, len(self._members) / _LOOKS_A_SECOND) * random.uniform(0.8, 1.0))

    async def _ask(self, member: Member, *, with_models: bool) -> bool:
        """Ask an engine once; returns whether the answer is news."""
        assert self._asking is not None
        url = member.address.url
        try:
            await check_health(self._asking, url)
            wanted = with_models or member.served is None or member.phase is Phase.UNWELL
            served = await ask_models(self._asking, url) if wanted else None
        except EngineSilent as silence:
            news = member.was_silent(str(silence))
        except EngineUnwell as trouble:
            news = member.is_unwell(str(trouble))
        else:
            news = member.answered(served)
        if news:
            self._tell_state(member)
        return news

    def _tell_state(self, member: Member) -> None:
        if member.phase is Phase.SERVING and member.served is not None:
            logger.info("%s (%s) serves %s", member.name, member.address, ", ".join(member.served.models))
        else:
            logger.warning("%s (%s) gets no requests: %s", member.name, member.address, member.fault)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("an engine is not looked at any more", exc_info=task.exception())
