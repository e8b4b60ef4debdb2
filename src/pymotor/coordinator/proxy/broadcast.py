"""One request to every engine of a proxy at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import httpx
import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.proxy.inquiry import client
from pymotor.coordinator.proxy.member import Member

_SECONDS = 10.0
_LONGEST_SHOWN = 1000


class Broadcast:
    """Asks engines; within `ready` only."""

    def __init__(self, key: str) -> None:
        """`key` is the engines' `--api-key`, empty for none."""
        self._key = key
        self._asking: httpx.AsyncClient

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Engines can be asked as long as the block runs."""
        async with client(self._key) as self._asking:
            yield

    async def post(self, members: Sequence[Member], path: str, query: str) -> list[tuple[Member, object]]:
        """What each answers to a POST without a body: its JSON, or `{"status": …}` where it has none, or
        `{"error": …}` where it failed."""
        found = await asyncio.gather(*(self._post(member, path, query) for member in members))
        return list(zip(members, found, strict=True))

    async def _post(self, member: Member, path: str, query: str) -> object:
        url = f"{member.address.url}{path}" + (f"?{query}" if query else "")
        try:
            reply = await self._asking.post(url, timeout=_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return {"error": f"no answer: {error or type(error).__name__}"}
        if reply.status_code == 404:
            return {"error": f"the engine has no {path}; vLLM offers it only where it was started for that"}
        if not reply.is_success:
            return {"error": f"status {reply.status_code}: {reply.text[:_LONGEST_SHOWN]}"}
        try:
            return msgspec.json.decode(reply.content)
        except UNREADABLE:
            return {"status": reply.status_code}


def failed(found: object) -> str:
    """Why an engine's answer is none, or nothing."""
    error = found.get("error") if isinstance(found, dict) else None
    return str(error) if error is not None else ""
