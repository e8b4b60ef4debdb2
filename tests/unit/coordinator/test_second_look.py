"""What endpoints hold is looked at again for a request that has waited in the line, and for no other."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import uvloop

from holding_engines import holding_engines
from played_stages import PlayedFleet, chat
from pymotor.coordinator.affinity.settings import AffinitySettings
from pymotor.coordinator.flows import dispatch
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.coordinator.settings import RequestLimits, Settings
from pymotor.fleet import ECDialect, Role
from worker_in_process import until

SETTINGS = Settings(
    max_retry=0,
    retry_delay=0.0,
    scheduler_type="kv_cache_affinity",
    affinity=AffinitySettings(rules=AffinityRules(load_weight=0.25)),
    limits=RequestLimits(union=1),
)
BEGINNING = "one common beginning " * 400


@pytest.mark.parametrize("waits_long", [True, False])
def test_what_was_sent_during_the_wait_counts(monkeypatch: pytest.MonkeyPatch, *, waits_long: bool) -> None:
    """Two that begin alike wait; where the first went the second finds its beginning."""
    monkeypatch.setattr(dispatch, "STALE_SECONDS", 0.0 if waits_long else float("inf"))

    async def scenario() -> None:
        async with holding_engines(("same", "same"), SETTINGS) as engines:
            services = engines.gateway.worker._services
            assert services.placement is not None
            engines.hold(0)
            engines.hold(1)
            busy = [asyncio.create_task(engines.ask(f"busy {number}")) for number in range(2)]
            await until(lambda: len(engines.served) == 2, "both are full")
            waiting = []
            for name in ("first", "second"):
                waiting.append(asyncio.create_task(engines.ask(BEGINNING + name)))
                await until(lambda: services.admission._line.waiting() == len(waiting), "it waits")
            # The newest choice is the second's.
            choice = services.placement.recent.find(b"")
            assert choice is not None
            assert not choice.decisions
            engines.release(1)
            engines.hold(1)
            await until(lambda: (1, BEGINNING + "first") in engines.served, "the first has the place")
            # Now both have one, and the less loaded is the other.
            services.use(msgspec.structs.replace(SETTINGS, limits=RequestLimits(union=2)))
            await until(lambda: len(engines.served) == 4, "the second has one too")
            assert engines.last(BEGINNING + "second") == int(waits_long)
            assert ((choice.decisions[0].held or 0) > 1000) is waits_long
            engines.release(0)
            engines.release(1)
            await asyncio.gather(*busy, *waiting)
            await engines.gateway.until_idle()

    uvloop.run(scenario())


def test_prefill_and_decode_are_never_more_than_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places that are kept during the look are given back, whatever the request is."""
    monkeypatch.setattr(dispatch, "STALE_SECONDS", 0.0)

    async def scenario() -> None:
        roles = {Role.ENCODE: 1, Role.PREFILL: 2, Role.DECODE: 2}
        limits = RequestLimits(prefill=1, decode=1)
        async with PlayedFleet(ECDialect.STORE, roles, scheduler_type="kv_cache_affinity", limits=limits) as fleet:
            for number in range(2):
                fleet[f"prefill-{number}"].hold()
            bodies = [chat(), chat(), chat(), chat(n=2), chat("data:image/png;base64,AAAA")]
            asking = [asyncio.create_task(fleet.ask(body)) for body in bodies]
            await fleet.until(lambda: len(fleet.sent(Role.PREFILL)) == 2, "both are full")
            line = fleet.worker.worker._services.admission._line
            await fleet.until(lambda: line.waiting() == 3, "the others wait")
            assert max(requests for _, requests in fleet.worker.loads()) == 1
            for number in range(2):
                fleet[f"prefill-{number}"].held.set()
            assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 5
            assert len(fleet.sent(Role.DECODE)) == 6

    uvloop.run(scenario())
