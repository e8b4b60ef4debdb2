"""What an engine says of itself: whether it is well (`/health`), and which models it serves (`/v1/models`)."""

from __future__ import annotations

import ssl
from typing import Annotated

import httpx
import msgspec

from pymotor.control_plane.bounded_reading import UnboundedError, read_bounded
from pymotor.coordinator.api.errors import UNREADABLE

SECONDS = 5.0
"""An engine that has not answered by then is silent."""
_LONGEST_BYTES = 4 * 1024 * 1024
_NO_SUCH_PATH = (404, 405)


class EngineSilent(Exception):
    """It did not answer in time: it may be busy, or gone."""


class EngineUnwell(Exception):
    """It cannot be reached or says that it cannot serve; the message says why."""


class Served(msgspec.Struct, frozen=True):
    """What an engine serves."""

    models: tuple[str, ...]
    max_model_len: int | None


class _Card(msgspec.Struct):
    id: str
    max_model_len: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


_decoder = msgspec.json.Decoder(_Models)


def client(key: str) -> httpx.AsyncClient:
    """For all questions to engines; `key` is what they were started with (`--api-key`), empty for none."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=0),
        timeout=httpx.Timeout(SECONDS, pool=None),
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )


async def check_health(asking: httpx.AsyncClient, url: str) -> None:
    """Return when the engine is well. Raises `EngineSilent`, `EngineUnwell`."""
    reply = await _get(asking, f"{url}/health")
    # A server without this path answers, which is all that is asked.
    if not reply.is_success and reply.status_code not in _NO_SUCH_PATH:
        raise EngineUnwell(f"its /health says {reply.status_code}")


async def ask_models(asking: httpx.AsyncClient, url: str) -> Served:
    """What it serves. Raises `EngineSilent`, `EngineUnwell`."""
    reply = await _get(asking, f"{url}/v1/models")
    if reply.status_code in (401, 403):
        raise EngineUnwell(
            "it wants a key for /v1/models: set OPENAI_API_KEY to its --api-key and start the proxy anew"
        )
    if not reply.is_success:
        raise EngineUnwell(f"its /v1/models says {reply.status_code}")
    try:
        cards = _decoder.decode(reply.content).data
    except UNREADABLE as error:
        raise EngineUnwell(f"its /v1/models cannot be read: {error}") from error
    if not cards:
        raise EngineUnwell("its /v1/models names no models")
    lengths = [card.max_model_len for card in cards if card.max_model_len is not None]
    return Served(tuple(card.id for card in cards), min(lengths, default=None))


async def _get(asking: httpx.AsyncClient, url: str) -> httpx.Response:
    try:
        async with asking.stream("GET", url) as reply:
            return httpx.Response(reply.status_code, content=await read_bounded(reply.aiter_raw(), _LONGEST_BYTES))
    except UnboundedError as error:
        raise EngineUnwell(f"{url} answers with {error}") from error
    except httpx.TimeoutException as error:
        raise EngineSilent(f"it did not answer within {SECONDS:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise EngineUnwell(f"it cannot be reached: {error or type(error).__name__}") from error
