"""Engines, KV Conductor and Coordinator are killed and started again in every order, under load.

Of each order three things are asked. No request fails: but for those that a killed Coordinator process had in hand,
which nobody can bring back, and those that found nobody listening, which were never sent and are sent again. A
Coordinator that ends as it is told loses none. Routing goes on without what is missing and comes back to the
conductor's answers. And what the conductor claims an engine holds is there, whatever happened to the engine: nothing
is evicted here, so that a claim made before the engine is asked can only be too small.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import plain_http
import psutil
import pytest
from answers import ask_one
from chats_under_load import Failed, Load, Turn, cached_in, chats
from conductor_under_test import TOKEN, Asker, ConductorUnderTest
from fleet_under_test import MODEL, PLAIN, Engine, Engines, Gateway, Role
from processes import wait_until

from free_ports import free_port
from prompt_models import template_model
from pymotor.control_plane import TOKEN_VARIABLE

FLEETS = {"two unions": {Role.UNION: 2}, "two pairs": {Role.PREFILL: 2, Role.DECODE: 2}}
BLOCK = 16
"""Tokens."""
WORKERS = 2
PATIENCE = 60.0
"""Seconds; a machine may be busy with other things."""
CONFIG = {"exception_config": {"retry_delay": 0.02}, "http_config": {"stream_idle_timeout": 30}}
PARTS = ("engine", "conductor", "coordinator")
ORDERS = list(itertools.permutations(PARTS))
PAIRS = list(itertools.combinations(PARTS, 2))


def own_flags() -> list[str]:
    """Of one engine: its ports stay the same when it is started again, so that a subscriber finds another engine at
    the address that it knows."""
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{free_port()}",
        "replay_endpoint": f"tcp://*:{free_port()}",
    }
    return ["--kv-events-config", json.dumps(events), "--enable-prompt-tokens-details", "--sim-speed", "0.2"]


def has_ended(process: psutil.Process) -> bool:
    """Whether nothing of it is left but what its parent has not read yet."""
    try:
        # Its first thread may have ended before others did, and its sockets close with the last.
        return process.status() == psutil.STATUS_ZOMBIE and len(os.listdir(f"/proc/{process.pid}/task")) <= 1
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


def _meanwhile(one: Failed, times: list[tuple[float, float]]) -> bool:
    return any(one.begin <= end and begin <= one.end for begin, end in times)


def replace(engine: Engine) -> None:
    """Another one at its place, of which nobody is told."""
    engine.kill()
    engine.start()
    engine.wait()


class Disturbed:
    """Engines, conductor and Coordinator, and the load on them."""

    def __init__(
        self, engines: Engines, conductor: ConductorUnderTest, gateway: Gateway, load: Load, known: list[list[Turn]]
    ) -> None:
        """`known`: what the load is made of."""
        self.engines = engines
        self.conductor = conductor
        self.gateway = gateway
        self.load = load
        self.known = known
        self._next_engine = itertools.cycle(engines.fleet)
        self._next_fate = itertools.cycle(("worker", "all, gracefully", "all at once"))
        self._next_told = itertools.cycle((True, False, False, True, True))
        self._tokens: dict[int, list[int]] = {}
        self._gone: list[tuple[str, list[int]]] = []
        """Tokens that an endpoint held when it was killed, and that nobody has asked it for since."""
        self.conductor_answers = True
        self._judged = 0
        self.cuts: list[tuple[float, float]] = []
        """From when to when requests in hand were lost with the process that had them."""
        self.endings: list[tuple[float, float]] = []
        """From when to when a Coordinator ended as it was told."""

    # -- what is done to it

    @contextmanager
    def without(self, part: str) -> Iterator[None]:
        """It is killed, and started again behind the block."""
        with {"engine": self._without_engine, "conductor": self._without_conductor, "coordinator": self._without_fate}[
            part
        ]():
            yield

    @contextmanager
    def _without_engine(self) -> Iterator[None]:
        engine = self.engines[next(self._next_engine)]
        told = next(self._next_told)
        self.mark(engine)
        engine.kill()
        if told:
            self.gateway.write_fleet()
        yield
        engine.start()
        engine.wait()
        # Whoever was not told before never hears that it was gone.
        self.gateway.write_fleet()

    def mark(self, engine: Engine) -> None:
        """Have the engine compute what no other does, and the conductor know it, where it can; once this engine is
        killed it is gone."""
        endpoint, tokens = f"{engine.name}/0", self._tokenized(self.compute(engine))
        if self.conductor_answers:
            with Asker(self.conductor.port) as asker:
                wait_until(lambda: asker.match(tokens, model=MODEL).get(endpoint), "the conductor has heard of it")
        self._gone.append((endpoint, tokens))

    def compute(self, engine: Engine) -> dict[str, Any]:
        """Have the engine compute a prompt that is like no other; returns the request."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"{uuid.uuid4().hex} and so on. " * 8}]}
        self._cached(engine, body)
        return body

    @contextmanager
    def conductor_asleep(self) -> Iterator[None]:
        """It hangs within the block."""
        os.kill(self.conductor.process.pid, signal.SIGSTOP)
        self.conductor_answers = False
        try:
            yield
        finally:
            os.kill(self.conductor.process.pid, signal.SIGCONT)
            self.conductor_answers = True

    @contextmanager
    def _without_conductor(self) -> Iterator[None]:
        self.conductor.process.kill()
        self.conductor_answers = False
        yield
        self.conductor.start()
        self.conductor_answers = True

    @contextmanager
    def _without_fate(self) -> Iterator[None]:
        fate = next(self._next_fate)
        if fate == "worker":
            self.kill_worker()
            yield
            return
        if fate == "all at once":
            workers, began = self.workers(), time.monotonic()
            self.gateway.process.kill()
            self._cut(began, workers)
        else:
            began = time.monotonic()
            self.gateway.process.end()
            self.endings.append((began, time.monotonic()))
        yield
        self.gateway.__enter__()

    def kill_worker(self) -> None:
        """One of them; the supervisor starts another."""
        restarts = self.gateway.count("pymotor_worker_restarts_total")
        worker = random.choice(self.workers())
        began = time.monotonic()
        worker.kill()
        self._cut(began, [worker])

        def replaced() -> bool:
            return (
                self.gateway.count("pymotor_worker_restarts_total") > restarts
                and self.gateway.count("pymotor_workers", state="listening") == WORKERS
            )

        wait_until(replaced, "another worker listens", PATIENCE)

    def _cut(self, began: float, workers: list[psutil.Process]) -> None:
        """They were killed at that moment; their connections last as long as they do."""
        wait_until(lambda: all(map(has_ended, workers)), "the killed processes are gone")
        self.cuts.append((began, time.monotonic()))

    def workers(self) -> list[psutil.Process]:
        """Their processes."""
        children = psutil.Process(self.gateway.process.pid).children()
        return [one for one in children if "worker" in " ".join(one.cmdline())]

    # -- what is seen of it

    def outcomes(self) -> tuple[float, float]:
        """Requests whose prefixes the conductor told, and those whose it did not."""
        name = "pymotor_kv_affinity_questions_total"
        answered = self.gateway.count(name, outcome="answered")
        return answered, self.gateway.count(name) - answered

    def wait_degraded(self) -> None:
        """Wait until requests go on without the conductor, all of them."""
        wait_until(lambda: self._next_are(0, 10), "texts are compared", PATIENCE)

    def wait_recovered(self) -> None:
        """Wait until every publisher is followed and the conductor tells again."""
        for name in self.engines.fleet:
            self.conductor.wait_standing(f"{name}/0 0", "live")
        wait_until(lambda: self._next_are(10, 0), "the conductor is asked and answers", PATIENCE)

    def _next_are(self, answered: int, others: int) -> bool:
        before = self.outcomes()
        self.load.wait_answered(max(answered, others) + 2)
        now = self.outcomes()
        return (now[0] - before[0] >= answered) if answered else now[0] == before[0] and now[1] > before[1]

    def claims_hold(self, turns: list[Turn]) -> int:
        """Compare what the conductor claims with what engines have, for prompts of the load; returns how many tokens
        were claimed."""
        claimed = 0
        with Asker(self.conductor.port) as asker:
            for endpoint, gone in self._gone:
                assert endpoint not in asker.match(gone, model=MODEL), f"{endpoint} lost {len(gone)} tokens"
            claims = [asker.match(self.tokens(turn), model=MODEL) for turn in turns]
        for turn, held in zip(turns, claims, strict=True):
            # The last token is always computed.
            most = (len(self.tokens(turn)) - 1) // BLOCK * BLOCK
            for endpoint, tokens in held.items():
                engine = self.engines[endpoint.removesuffix("/0")]
                found = self._cached(engine, turn.asked.body)
                assert min(tokens, most) <= found, f"{engine.name} is said to hold {tokens} and has {found}"
                claimed += tokens
        return claimed

    def expects_what_it_was_told(self, turns: list[Turn]) -> bool:
        """Whether the conductor expects nothing of what was only sent."""
        with Asker(self.conductor.port) as asker:
            answers = [asker.answer(asker.query(self.tokens(turn), model=MODEL)) for turn in turns]
            return all(asker.expected(one) == asker.held(one) for one in answers)

    def some_turns(self) -> list[Turn]:
        """The last turns of half the chats."""
        return [chat[-1] for chat in random.sample(self.known, len(self.known) // 2)]

    def tokens(self, turn: Turn) -> list[int]:
        """Of its prompt."""
        found = self._tokens.get(id(turn))
        if found is None:
            found = self._tokens[id(turn)] = self._tokenized(turn.asked.body)
        return found

    def _tokenized(self, body: dict[str, Any]) -> list[int]:
        asked = {"model": MODEL, "messages": body["messages"]}
        reply = plain_http.post(f"{self.engines[PLAIN].url}/tokenize", json=asked).raise_for_status()
        found: list[int] = reply.json()["tokens"]
        return found

    def _cached(self, engine: Engine, body: dict[str, Any]) -> int:
        """Tokens of the prompt that the engine says it had."""
        asked = {"model": MODEL, "messages": body["messages"], "max_tokens": 1, "temperature": 0}
        reply = plain_http.post(f"{engine.url}/v1/chat/completions", json=asked, timeout=30).raise_for_status()
        return cached_in(reply.text) or 0

    def judge(self) -> None:
        """No request has failed since the last time that need not."""
        new, self._judged = self.load.told.failed[self._judged :], len(self.load.told.failed)
        lost = [one for one in new if not (one.broken and _meanwhile(one, self.cuts))]
        assert not lost, (lost, self.cuts[-3:], self.endings[-3:])
        too_much = [one for one in self.load.told.predicted if one.told > one.cached]
        assert not too_much, too_much


@pytest.fixture(scope="module", params=FLEETS)
def disturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    """Under load from the first test to the last."""
    directory = tmp_path_factory.mktemp("disturbed")
    with ExitStack() as opened:
        engines = opened.enter_context(Engines(directory, FLEETS[request.param], flags=own_flags))
        known = chats(engines[PLAIN].url, 24, 3)
        port = free_port()
        scheduling = {
            "scheduler_type": "kv_cache_affinity",
            "tokenizer_path": template_model(directory),
            "kv_affinity_patience": 0.25,
        }
        environment = {"PYMOTOR_KV_CONDUCTOR": f"127.0.0.1:{port}", TOKEN_VARIABLE: TOKEN}
        gateway = Gateway(
            engines, config={**CONFIG, "scheduler_config": scheduling}, workers=WORKERS, environment=environment
        )
        opened.enter_context(gateway)
        conductor = ConductorUnderTest(directory, fleet=gateway.fleet_file, port=port)
        opened.enter_context(conductor)
        load = opened.enter_context(Load(gateway.url, gateway.management_url, known, random.Random(1)))
        found = Disturbed(engines, conductor, gateway, load, known)
        found.wait_recovered()
        yield found


@pytest.mark.parametrize("disturbed", ["two unions"], indirect=True)
def test_each_by_itself(disturbed: Disturbed) -> None:
    """Of the Coordinator a worker, and then all of it as it is told; the long tests are about what comes together."""
    for part in (*PARTS, "coordinator"):
        with disturbed.without(part):
            if part == "conductor":
                disturbed.wait_degraded()
        disturbed.load.wait_answered()
    disturbed.wait_recovered()
    assert disturbed.claims_hold(disturbed.some_turns()) > 0
    disturbed.judge()


@pytest.mark.soak
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_one_after_the_other(disturbed: Disturbed, order: tuple[str, ...]) -> None:
    for part in order:
        with disturbed.without(part):
            if part == "conductor":
                disturbed.wait_degraded()
            elif part == "engine":
                disturbed.load.wait_answered()
                disturbed.claims_hold([])
    disturbed.wait_recovered()
    assert disturbed.claims_hold(disturbed.some_turns()) > 0
    disturbed.judge()


@pytest.mark.soak
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_at_once(disturbed: Disturbed, pair: tuple[str, str]) -> None:
    """The one that is gone first is back last."""
    with disturbed.without(pair[0]), disturbed.without(pair[1]):
        pass
    disturbed.wait_recovered()
    assert disturbed.claims_hold(disturbed.some_turns()) > 0
    disturbed.judge()


@pytest.mark.soak
def test_a_conductor_that_slept_while_an_engine_was_replaced(disturbed: Disturbed) -> None:
    for _ in range(2):
        with disturbed.conductor_asleep(), disturbed.without("engine"):
            disturbed.wait_degraded()
        disturbed.claims_hold(disturbed.some_turns())
        disturbed.wait_recovered()
        assert disturbed.claims_hold(disturbed.some_turns()) > 0
    disturbed.judge()


@pytest.mark.soak
def test_an_engine_that_has_told_as_much_as_the_one_before_it(disturbed: Disturbed) -> None:
    """Its numbers alone do not tell it from the other."""
    name = disturbed.engines.fleet[0]
    engine = disturbed.engines[name]
    # A young one, which has not told much.
    disturbed.mark(engine)
    replace(engine)
    disturbed.wait_recovered()
    disturbed.mark(engine)
    told = disturbed.conductor.sources()[f"{name}/0 0"]["last_sequence"]
    with disturbed.conductor_asleep():
        replace(engine)
        for _ in range(told + 20):
            disturbed.compute(engine)
    disturbed.claims_hold(disturbed.some_turns())
    disturbed.wait_recovered()
    assert disturbed.claims_hold(disturbed.some_turns()) > 0
    disturbed.judge()


@pytest.mark.soak
def test_after_all_of_it_no_prediction_is_too_high(disturbed: Disturbed) -> None:
    """In quiet, what was sent a moment ago is not a guess any more, and every reply is compared."""
    error = "pymotor_kv_affinity_prediction_error_tokens"
    turns = [turn for chat in disturbed.known for turn in chat]
    with disturbed.load.quiet():
        wait_until(lambda: disturbed.expects_what_it_was_told(turns), "what was sent is told or forgotten", PATIENCE)
        compared, too_high = (
            disturbed.gateway.count(f"{error}_count"),
            disturbed.gateway.count(f"{error}_sum", more="expected"),
        )
        for turn in turns:
            assert ask_one(disturbed.gateway.url, turn.asked.body).comparable == turn.right.comparable
        assert disturbed.gateway.count(f"{error}_count") - compared >= len(turns) / 2
        assert disturbed.gateway.count(f"{error}_sum", more="expected") == too_high


@pytest.mark.soak
def test_the_load_was_what_it_should_be(disturbed: Disturbed) -> None:
    told = disturbed.load.told
    assert told.streamed > 100
    assert told.right - told.streamed > 100
    if "union-0" in disturbed.engines.fleet:
        assert sum(one.told > 0 for one in told.predicted) > 50
