"""What the Coordinator expected to be cached, against what engines counted."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chats.conversations import Chat, take_turn
from chats.fleet import CacheCounts, Fleet, engine_counts

_USERS, _TURNS, _WORDS = 4, 6, 12
_SETTLE_SECONDS = 30.0
_EXPECTED = "pymotor_kv_affinity_expected_tokens_total"
_ERROR = "pymotor_kv_affinity_prediction_error_tokens"


@dataclass(frozen=True)
class Prediction:
    """Of one request, in tokens."""

    instance: str
    prompt_tokens: int
    predicted: int
    counted: int

    @property
    def wrong(self) -> bool:
        """Whether the two differ."""
        return self.predicted != self.counted


@dataclass(frozen=True)
class ErrorUnderLoad:
    """How far predictions were off while many requests were under way."""

    requests: int
    exact: int
    too_much: int
    """Requests of which more was expected than cached."""
    mean_tokens: float
    expected: float
    """Tokens that the chosen endpoints of all requests were expected to hold."""

    def sentence(self, counted: float) -> str:
        """For the report; engines `counted` so many tokens."""
        compared = (
            f"; {self.requests} replies said what was cached: {self.exact} predictions were exact, {self.too_much} too "
            f"high, {self.mean_tokens:.1f} tokens off on average"
            if self.requests
            else ""
        )
        return f"Under load: {self.expected:.0f} tokens were expected, engines counted {counted:.0f}{compared}."


def quiet_replay(fleet: Fleet, role: str, seed: int) -> list[Prediction]:
    """Chats in turn, one request at a time, each after the events of the one before have arrived."""
    return asyncio.run(_quiet_replay(fleet, role, seed))


async def _quiet_replay(fleet: Fleet, role: str, seed: int) -> list[Prediction]:
    urls = fleet.endpoints(role)
    chats = [Chat.begin(user, seed, f"Quiet replay {seed}. " * 20, _WORDS) for user in range(_USERS)]
    found = []
    async with httpx.AsyncClient(timeout=300) as client:
        for number in range(_TURNS):
            for chat in chats:
                await _events_taken(client, fleet)
                before = {name: engine_counts(url) for name, url in urls.items()}
                name = f"quiet-{seed}-{chat.user}-{number}"
                await take_turn(client, fleet.url, chat, number, {"X-Request-Id": name})
                after = {name: engine_counts(url) for name, url in urls.items()}
                found.append(await _prediction(client, fleet, role, name, before, after))
    return found


async def _prediction(
    client: httpx.AsyncClient,
    fleet: Fleet,
    role: str,
    request_id: str,
    before: dict[str, CacheCounts],
    after: dict[str, CacheCounts],
) -> Prediction:
    reply = await client.get(f"{fleet.management}/explain", params={"request_id": request_id})
    if reply.status_code != 200:
        raise RuntimeError(f"no explanation of {request_id}: {reply.status_code} {reply.text[:300]}")
    told = reply.json()
    leg = next(leg for leg in told["legs"] if leg["role"] == role)
    chosen = next(endpoint for endpoint in leg["endpoints"] if endpoint["chosen"])
    instance = chosen["endpoint"].partition("/")[0]
    return Prediction(
        instance,
        told["prompt_tokens"],
        chosen.get("match_expected", 0),
        int(after[instance].since(before[instance]).hits),
    )


async def _events_taken(client: httpx.AsyncClient, fleet: Fleet) -> None:
    """Wait until the conductor has had no new event for a moment."""
    ends = time.monotonic() + _SETTLE_SECONDS
    last, same = None, 0
    while same < 3:
        if time.monotonic() > ends:
            raise RuntimeError("the KV Conductor's events do not come to rest")
        await asyncio.sleep(0.1)
        sources = (await client.get(f"{fleet.conductor}/sources")).json()
        now = str(sources)
        last, same = now, same + 1 if now == last else 0


def error_under_load(fleet: Fleet, before: ErrorUnderLoad | None = None) -> ErrorUnderLoad:
    """From the Coordinator's metrics, which compare what it expected with what replies say was cached; without what
    was counted `before`."""
    count = total = exact = too_much = expected = 0.0
    for family in text_string_to_metric_families(httpx.get(f"{fleet.observability}/metrics", timeout=30).text):
        for sample in family.samples:
            if sample.name == f"{_ERROR}_count":
                count += sample.value
                exact += sample.value if sample.labels["more"] == "neither" else 0
                too_much += sample.value if sample.labels["more"] == "expected" else 0
            elif sample.name == f"{_ERROR}_sum":
                total += sample.value
            elif sample.name == _EXPECTED:
                expected += sample.value
    if before is not None:
        total -= before.mean_tokens * before.requests
        expected -= before.expected
        count, exact, too_much = count - before.requests, exact - before.exact, too_much - before.too_much
    return ErrorUnderLoad(int(count), int(exact), int(too_much), total / count if count else 0.0, expected)
