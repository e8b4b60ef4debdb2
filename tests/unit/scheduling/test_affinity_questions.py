"""What the KV Conductor is asked about a request, and what is predicted of it."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Hashable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledgers import endpoints_of, group_of

from prompt_models import read, template_model
from pymotor.coordinator.affinity.choices import AffinityChoice
from pymotor.coordinator.affinity.conductor_client import Address, ConductorClient
from pymotor.coordinator.affinity.engine_tokens import EngineTokens
from pymotor.coordinator.affinity.instruments import AffinityInstruments
from pymotor.coordinator.affinity.placement import AffinityPlacement
from pymotor.coordinator.api.media import MediaItem
from pymotor.coordinator.prompts.prompt import Prompt
from pymotor.coordinator.prompts.prompt_tokens import PromptTokens
from pymotor.coordinator.routing import Pair, Routes, Single
from pymotor.coordinator.scheduling.kv_affinity import AffinityRules
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.target import Target
from pymotor.fleet import KVDialect, KVTransfer, Role
from pymotor.fleet.prefix_queries import (
    MOST_MEDIA,
    MOST_TOKENS,
    PREFACE,
    Followed,
    PrefixMatches,
    PrefixQuery,
    PrefixRouted,
)
from pymotor.kv_conductor.conductor_core import ConductorCore
from pymotor.kv_conductor.events import decode_batch
from pymotor.kv_conductor.frames import CoordinatorConnection
from pymotor.kv_conductor.instruments import Figures
from pymotor.kv_conductor.publisher_view import PublisherView
from pymotor.telemetry.metrics import Registry

BLOCK = 16
NOBODY: frozenset[str] = frozenset()
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y"}}


class Conductor:
    """A conductor's core behind its frames, which remembers what it was asked and told."""

    def __init__(self) -> None:
        self.core = ConductorCore()
        self.asked: list[PrefixQuery] = []
        self.told: list[str] = []
        self.has_told = asyncio.Event()
        self.connections: set[CoordinatorConnection] = set()
        self.views: dict[str, PublisherView] = {}

    @property
    def followed(self) -> Followed:
        """See `Answerer`."""
        return self.core.followed()

    def match(self, asker: Hashable, query: PrefixQuery) -> PrefixMatches:
        """See `Answerer`."""
        self.asked.append(query)
        return self.core.match(asker, query)

    def routed(self, asker: Hashable, message: PrefixRouted) -> bool:
        """See `Answerer`."""
        taken = self.core.routed(asker, message)
        if taken:
            self.told.append(message.endpoint)
        self.has_told.set()
        return taken

    def forget_asker(self, asker: Hashable) -> None:
        """See `Answerer`."""
        self.core.forget_asker(asker)

    def follow(self, endpoint: str) -> None:
        """The endpoint's events are taken from now on."""
        (self.views[endpoint],) = self.core.follow(endpoint, ("m",))

    def holds(self, endpoint: str, tokens: list[int]) -> None:
        """The endpoint tells that it stores these full blocks."""
        if endpoint not in self.views:
            self.follow(endpoint)
        event = {
            "type": "BlockStored",
            "block_hashes": list(range(len(tokens) // BLOCK)),
            "parent_block_hash": None,
            "token_ids": tokens,
            "block_size": BLOCK,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
        }
        self.views[endpoint].apply(decode_batch(msgspec.msgpack.encode([1.0, [event], None])))


class Door(asyncio.Protocol):
    """Reads the preface; what follows is the connection's."""

    def __init__(self, conductor: Conductor) -> None:
        self._connection = CoordinatorConnection(conductor, None, Figures(), conductor.connections)
        self._missing = len(PREFACE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        passed = data[self._missing :]
        self._missing = max(0, self._missing - len(data))
        if passed:
            self._connection.data_received(passed)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


@pytest.fixture
async def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
async def client(conductor: Conductor) -> AsyncIterator[ConductorClient]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Door(conductor), "127.0.0.1", 0)
    found = ConductorClient(Address(*server.sockets[0].getsockname()[:2]), "", loop, patience=60)
    found.start()
    yield found
    await found.close()
    server.close()
    await server.wait_closed()


@pytest.fixture
def places() -> Iterator[tuple[Ledger, list[Target]]]:
    with endpoints_of(2) as found:
        yield found


class Asking:
    """A worker's placement, in front of the conductor and two engines that nobody listens at."""

    def __init__(self, conductor: Conductor, client: ConductorClient, places: tuple[Ledger, list[Target]]) -> None:
        self.conductor = conductor
        self._client = client
        self._ledger, self.targets = places
        self.routes = _nobody()
        self.placement = AffinityPlacement(
            AffinityRules(),
            self._ledger,
            LoadBalance(self._ledger),
            AffinityInstruments(Registry()),
            tokens=None,
            engine_tokens=EngineTokens(asyncio.get_running_loop(), 1.0),
            conductor=client,
        )

    async def choice(self, body: dict[str, Any], path: str = "/v1/completions") -> AffinityChoice:
        """Of a request with this body, once the conductor has said whom it follows."""
        while not self._client.open:  # noqa: ASYNC110  nobody tells when it is connected
            await asyncio.sleep(0.005)
        made = await self.placement.choice(read(path, body), {}, lambda: self.routes)
        assert isinstance(made, AffinityChoice)
        return made

    async def held(self, prompt: list[int], **more: Any) -> int | None:
        """What is expected of a completion's prompt at the endpoint that gets it."""
        made = await self.choice({"prompt": prompt, **more})
        assert made.outcome == "answered"
        made.choose(group_of(self.targets), NOBODY)
        return made.decisions[-1].held


@pytest.fixture
async def asking(conductor: Conductor, client: ConductorClient, places: tuple[Ledger, list[Target]]) -> Asking:
    return Asking(conductor, client, places)


def _nobody() -> Routes:
    return Routes((), (), (), None)


def asked(conductor: Conductor) -> list[int]:
    """The tokens of the last question."""
    return array("I", conductor.asked[-1].tokens.tobytes()).tolist()


async def test_the_last_token_is_computed_whoever_holds_it(asking: Asking) -> None:
    """So the block that ends with it is of no use to a request that ends there, and one that goes on has it."""
    prompt = list(range(13 * BLOCK))
    asking.conductor.holds("union-0/0", prompt)
    assert await asking.held(prompt) == 12 * BLOCK
    assert await asking.held([*prompt, 1]) == 13 * BLOCK
    assert await asking.held(prompt[: BLOCK + 1]) == BLOCK
    assert await asking.held(prompt[:BLOCK]) == 0
    assert await asking.held(prompt[:1]) == 0


async def test_before_media_that_nobody_knows_no_prompt_ends(asking: Asking) -> None:
    view = read("/v1/chat/completions", {"messages": [{"role": "user", "content": [IMAGE, IMAGE]}]})
    first, second = view.media
    ids = memoryview(array("I", range(40))).cast("B")

    async def asked_of(*places: int) -> tuple[list[int], list[tuple[int, str]]]:
        await asking.placement._ask(asking._client, view, Prompt(ids, places))
        return asked(asking.conductor), asking.conductor.asked[-1].media

    await asking.choice({"prompt": [1, 2]})
    assert await asked_of(16, 20) == (list(range(16)), [])
    name_all(asking, first, second)
    assert await asked_of(16, 20) == (list(range(39)), [(16, "an image"), (20, "an image")])
    assert await asked_of(16, 39) == (list(range(39)), [(16, "an image")])


async def test_a_prompt_ends_before_more_media_than_a_question_has(asking: Asking) -> None:
    view = read("/v1/chat/completions", {"messages": [{"role": "user", "content": [IMAGE] * (MOST_MEDIA + 1)}]})
    name_all(asking, *view.media)
    ids = memoryview(array("I", range(MOST_MEDIA + 10))).cast("B")
    await asking.choice({"prompt": [1, 2]})
    await asking.placement._ask(asking._client, view, Prompt(ids, tuple(range(2, MOST_MEDIA + 3))))
    assert asked(asking.conductor) == list(range(MOST_MEDIA + 2))
    assert len(asking.conductor.asked[-1].media) == MOST_MEDIA


async def test_of_a_long_prompt_what_is_compared_is_asked(asking: Asking) -> None:
    """A frame with all of it could be longer than frames are."""
    await asking.held([7] * (MOST_TOKENS + 100))
    assert len(asked(asking.conductor)) == MOST_TOKENS


async def test_tokens_that_are_lacking_are_no_fault_of_the_conductor(asking: Asking) -> None:
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    assert (await asking.choice(chat, "/v1/chat/completions")).outcome == "text", "no engine tells tokens"
    await asking._client.close()
    made = await asking.placement.choice(read("/v1/chat/completions", chat), {}, _nobody)
    assert made is not None
    assert made.outcome == "closed"


async def test_engines_tell_what_a_tokenizer_without_template_does_not(asking: Asking, tmp_path: Path) -> None:
    """A chat's tokens, and only while there is somebody to ask with them."""
    asking.placement._tokens = PromptTokens.load(template_model(tmp_path, {}), asyncio.get_running_loop())
    looked = []

    def routes() -> Routes:
        looked.append("once")
        return Routes((), (), (), None)

    chat = {"messages": [{"role": "user", "content": "hello"}]}
    message = {"max_tokens": 1, **chat}
    await asking.choice(chat, "/v1/chat/completions")
    for path, body, lookups in (("/v1/messages", message, 1), ("/v1/chat/completions", chat, 2)):
        looked.clear()
        view = read(path, body)
        await asking.placement.choice(view, {}, routes)
        # Whether one of them tells of its cache is looked up each time.
        assert len(looked) == lookups
        assert view.prompt_tokens == len("hello") + 4
    await asking._client.close()
    looked.clear()
    await asking.placement.choice(read("/v1/chat/completions", chat), {}, routes)
    assert not looked


async def test_where_no_engine_tells_of_its_cache_texts_are_compared(asking: Asking, conductor: Conductor) -> None:
    group = group_of(asking.targets)
    routes = Routes((), (Single(group, Role.UNION, None),), (), None)
    prompt = read("/v1/completions", {"prompt": "once upon a time " * 512})
    await asking.choice({"prompt": [1, 2, 3]})
    conductor.asked.clear()
    chosen = []
    for turn in range(3):
        made = await asking.placement.choice(prompt, {}, lambda: routes)
        assert isinstance(made, AffinityChoice)
        assert made.outcome == "unfollowed"
        chosen.append(made.choose(group, NOBODY))
        assert chosen[-1] is not None
        assert bool(made.decisions[-1].held) == (turn > 0), "what was sent there before begins alike"
    assert len(set(chosen)) == 1
    assert not conductor.asked


async def test_one_engine_that_tells_of_its_cache_is_enough_to_ask(
    asking: Asking, conductor: Conductor, client: ConductorClient
) -> None:
    routes = Routes((), (Single(group_of(asking.targets), Role.UNION, None),), (), None)
    conductor.holds(asking.targets[1].endpoint_id, list(range(4 * BLOCK)))
    await asking.choice({"prompt": [1, 2, 3]})
    assert client.holders is not None
    made = await asking.placement.choice(
        read("/v1/completions", {"prompt": list(range(4 * BLOCK))}), {}, lambda: routes
    )
    assert made is not None
    assert made.outcome == "answered"


@pytest.mark.parametrize(
    ("more", "all_computed"),
    [
        ({"prompt_logprobs": 0}, True),
        ({"prompt_logprobs": 1}, True),
        ({"prompt_logprobs": None}, False),
        ({"echo": True, "logprobs": 1}, True),
        ({"echo": True}, False),
        ({"echo": False, "logprobs": 1}, False),
        ({"logprobs": 1}, False),
    ],
)
async def test_who_is_to_tell_of_the_whole_prompt_computes_it(
    asking: Asking, more: dict[str, Any], all_computed: bool
) -> None:
    """Afterwards it is there for others."""
    prompt = list(range(1000))
    asking.conductor.holds("union-0/0", prompt[:320])
    assert await asking.held(prompt, **more) == (0 if all_computed else 320)
    await asking.conductor.has_told.wait()
    assert len(asking.conductor.told) == 1


@pytest.mark.parametrize("more", [{"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}])
@pytest.mark.parametrize("beside_unions", [False, True])
async def test_prefill_is_not_asked_of_the_prompt_and_uses_what_it_holds(
    asking: Asking, more: dict[str, Any], beside_unions: bool
) -> None:
    """Where a union may get the request, which would compute everything, nothing counts."""
    group = group_of(asking.targets)
    transfer = KVTransfer(connector="NixlConnector", dialect=KVDialect.PULL, produces=True, consumes=False)
    pair = Pair(group, group, transfer, None)
    singles = (Single(group, Role.UNION, None),) if beside_unions else ()
    asking.routes = Routes((pair,), singles, (), None)
    prompt = list(range(1000))
    asking.conductor.holds("union-0/0", prompt[:320])
    assert await asking.held(prompt, **more) == (0 if beside_unions else 320)
    await asking._client.close()
    chat = {"messages": [{"role": "user", "content": "a long story " * 100}]}
    for body, expected in ((chat, False), ({**chat, "prompt_logprobs": 1}, not beside_unions)):
        made = await asking.placement.choice(read("/v1/chat/completions", body), {}, lambda: asking.routes)
        assert made is not None
        made.choose(group, NOBODY)
        assert bool(made.decisions[-1].held) == expected, "where texts are compared too"


async def test_a_chat_with_its_prompt_in_the_answer_is_computed_whole(asking: Asking) -> None:
    """Where texts are compared too."""
    await asking._client.close()
    chat = {"messages": [{"role": "user", "content": "a long story " * 100}]}
    for body, expected in ((chat, False), ({**chat, "echo": True}, False), (chat, True)):
        made = await asking.placement.choice(read("/v1/chat/completions", body), {}, _nobody)
        assert made is not None
        made.choose(group_of(asking.targets), NOBODY)
        assert bool(made.decisions[-1].held) == expected


def name_all(asking: Asking, *items: MediaItem) -> None:
    """Engines have named them."""
    for item in items:
        asking.placement.identified(item, "an image")


async def test_a_second_look_finds_what_is_held_by_then(asking: Asking) -> None:
    prompt = list(range(4 * BLOCK + 1))
    body = {"prompt": prompt}
    asking.conductor.follow("union-1/0")
    made = await asking.choice(body)
    asking.conductor.holds("union-1/0", prompt[: 4 * BLOCK])
    await asking.placement.look_again(made, read("/v1/completions", body), _nobody)
    assert made.choose(group_of(asking.targets), NOBODY) is asking.targets[1]
    assert made.decisions[-1].held == 4 * BLOCK
    await asking.conductor.has_told.wait()
    assert asking.conductor.told == ["union-1/0"]
    assert not made.may_look_again, "a leg has begun"


async def test_a_second_look_that_fails_keeps_the_first(asking: Asking, client: ConductorClient) -> None:
    prompt = list(range(4 * BLOCK + 1))
    asking.conductor.holds("union-1/0", prompt[: 4 * BLOCK])
    body = {"prompt": prompt}
    made = await asking.choice(body)
    first = made.matches
    await client.close()
    await asking.placement.look_again(made, read("/v1/completions", body), _nobody)
    assert (made.outcome, made.matches) == ("answered", first)
    assert made.choose(group_of(asking.targets), NOBODY) is asking.targets[1]


async def test_a_second_look_at_texts_reads_them_again(asking: Asking, client: ConductorClient) -> None:
    body = {"prompt": "one beginning " * 100}
    await asking.choice(body)
    await client.close()
    while client.open:  # noqa: ASYNC110  nobody tells when it is gone
        await asyncio.sleep(0)
    view = read("/v1/completions", body)
    first, second = [await asking.placement.choice(view, {}, _nobody) for _ in range(2)]
    assert isinstance(first, AffinityChoice)
    assert isinstance(second, AffinityChoice)
    group = group_of(asking.targets)
    chosen = first.choose(group, NOBODY)
    await asking.placement.look_again(second, view, _nobody)
    assert second.outcome == first.outcome == "closed"
    assert second.choose(group, NOBODY) is chosen
    assert second.decisions[-1].held


def said(length: int, *, streamed: bool) -> bytes:
    """An engine's reply to a prompt of so many tokens."""
    usage = {"prompt_tokens": length, "prompt_tokens_details": {"cached_tokens": 0}}
    body = json.dumps({"choices": [], "usage": usage}, separators=(",", ":")).encode()
    return b"data: " + body + b"\n\n" if streamed else body


@pytest.mark.parametrize("streamed", [False, True])
async def test_prompts_that_are_longer_at_their_engines_are_told_of_once(
    asking: Asking, caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    asking.conductor.follow("union-0/0")

    async def place(length: int, there: int) -> None:
        made = await asking.choice({"prompt": list(range(length))})
        target = made.choose(group_of(asking.targets), NOBODY)
        assert target is not None
        (made.streamed if streamed else made.replied)(target, said(there, streamed=streamed))

    for there in (101, 102, 103, 104, 105, 106, 107, 100, 101, 102, 103, 104, 105, 106, 107):
        await place(100, there)
    assert not caplog.records, "never so many in a row"
    for there in range(108, 120):
        await place(100, there)
    (record,) = caplog.records
    assert "100 tokens here and 108 there" in record.getMessage()
    assert "tokenizer_path" in record.getMessage()
