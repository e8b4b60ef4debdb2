"""A request whose try at prefill and decode fails as prefill goes: decode that is left answers it alone."""

from __future__ import annotations

import asyncio

import uvloop

from played_stages import PlayedFleet, chat
from pymotor.fleet import ECDialect, Role


def test_what_decode_holds_decides() -> None:
    async def scenario() -> None:
        roles = {Role.PREFILL: 1, Role.DECODE: 2}
        settings = {"scheduler_type": "kv_cache_affinity", "max_retry": 1}
        async with PlayedFleet(ECDialect.STORE, roles, **settings) as fleet:
            body = chat()
            body["messages"][0]["content"] = "one beginning " * 400
            decodes = [one for one in fleet.worker.instances if one.role is Role.DECODE]
            fleet.worker.tell_fleet(decodes)
            assert (await fleet.ask(body))[0] == 200
            ((holder, _),) = fleet.sent(Role.DECODE)

            fleet.worker.tell_fleet(fleet.worker.instances)
            prefill = fleet["prefill-0"]
            prefill.hold()
            prefill.replies.append(None)
            asking = asyncio.create_task(fleet.ask(body))
            await fleet.until(lambda: prefill.bodies, "prefill has it")
            fleet.worker.tell_fleet(decodes)
            prefill.held.set()
            assert (await asking)[0] == 200

            placement = fleet.worker.worker._services.placement
            assert placement is not None
            choice = placement.recent.find(b"")
            assert choice is not None
            last = choice.decisions[-1]
            assert (last.by, last.chosen.instance.name) == ("affinity", holder)
            assert (last.held or 0) > 1000

    uvloop.run(scenario())
