"""The callback dialect: decode tells the gateway where its blocks are, the gateway lets prefill write into them.

As vllm-ascend's MooncakeLayerwiseConnector does it: one POST without a time limit, tried three times when the
network fails; the reply's status is not looked at, so a decode engine whose callback came to nothing waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from pymotor.engines.sim.core_types import CoreOptions
from pymotor.engines.sim.faults import Faults, Stage
from pymotor.engines.sim.requests import Request

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("pymotor.sim")

_TRIES = 3


def callback_body(request: Request, options: CoreOptions) -> dict[str, Any]:
    """What the gateway is told: where the request's KV is to be written."""
    assert options.side_channel is not None
    host, port = options.side_channel
    return {
        "token_ids": [],
        "request_id": request.external_id,
        "do_remote_prefill": False,
        "do_remote_decode": True,
        "remote_block_ids": [list(request.blocks)],
        "remote_block_size": [options.block_size],
        "remote_engine_id": options.engine_id,
        "remote_host": host,
        "remote_port": port,
        "remote_tp_size": 1,
        "remote_pcp_size": 1,
        "remote_dcp_size": 1,
        "remote_cached_tokens": request.computed,
    }


class Callbacks:
    """Sends callbacks; `close` ends them all."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._client: httpx.AsyncClient | None = None

    async def send(self, url: str | None, body: dict[str, Any]) -> None:
        """Tell the gateway; returns when it has answered, whatever it said, or when it could not be reached."""
        struck = self._faults.take(Stage.CALLBACK)
        if "callback_never" in struck:
            return
        if "callback_late" in struck:
            await asyncio.sleep(struck["callback_late"].seconds)
        if "callback_unknown" in struck:
            body = {**body, "request_id": f"chatcmpl-{os.urandom(16).hex()}"}
        times = 2 if "callback_twice" in struck else 1
        await asyncio.gather(*(self._post(url, body) for _ in range(times)))

    async def close(self) -> None:
        """Close all connections to gateways."""
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, url: str | None, body: dict[str, Any]) -> None:
        import httpx  # takes a tenth of a second, and only this dialect needs it

        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx.AsyncClient(timeout=None, limits=limits, trust_env=False)  # noqa: S113 - as the connector
        for attempt in range(1, _TRIES + 1):
            if await self._posted(self._client, url or "", body, attempt):
                return

    @staticmethod
    async def _posted(client: httpx.AsyncClient, url: str, body: dict[str, Any], attempt: int) -> bool:
        """Whether the gateway answered anything at all."""
        import httpx

        name = body["request_id"]
        try:
            reply = await client.post(url, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("callback of %s to %s failed (%d of %d): %r", name, url, attempt, _TRIES, error)
            return False
        log.info("callback of %s was answered with %d", name, reply.status_code)
        return True
