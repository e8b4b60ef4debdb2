"""Which ways a fleet offers, and that the least loaded endpoint is chosen exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.http.upstream_pool import SharedState
from pymotor.coordinator.pairing import AUTOMATIC, PairingRules
from pymotor.coordinator.routing import FleetView
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.load_balance import LoadBalance
from pymotor.coordinator.scheduling.round_robin import RoundRobin
from pymotor.coordinator.scheduling.target import Group, Reservation, Target
from pymotor.fleet import (
    ECDialect,
    ECTransfer,
    Endpoint,
    EndpointState,
    FleetSnapshot,
    Instance,
    InstanceState,
    KVDialect,
    KVTransfer,
    Role,
)

NOBODY: frozenset[str] = frozenset()


def instance(name: str, **changes: object) -> Instance:
    """An active instance with one endpoint; its role is in its name."""
    role = Role(name.partition("-")[0])
    kv = KVTransfer(
        connector="NixlConnector",
        dialect=KVDialect.PULL,
        produces=role is Role.PREFILL,
        consumes=role is Role.DECODE,
        handoff_seconds=30,
    )
    ec = ECTransfer(
        connector="ECExampleConnector",
        dialect=ECDialect.STORE,
        produces=role is Role.ENCODE,
        consumes=role is not Role.ENCODE,
        store="/store",
    )
    fields: dict[str, object] = {
        "name": name,
        "role": role,
        "models": ("m",),
        "engine": "sim",
        "state": InstanceState.ACTIVE,
        "endpoints": (Endpoint(id=f"{name}/0", url="http://127.0.0.1:1", state=EndpointState.READY),),
        "kv": kv if role in (Role.PREFILL, Role.DECODE) else None,
        "ec": ec if role is not Role.DECODE else None,
        "pairing": "p",
        **changes,
    }
    return Instance(**fields)  # type: ignore[arg-type]


def ledger(rows: int) -> Ledger:
    """A ledger of one worker."""
    descriptor = Ledger.allocate(columns=1, rows=rows)
    try:
        return Ledger(descriptor, columns=1, rows=rows, column=0)
    finally:
        os.close(descriptor)


@pytest.fixture
async def view_of() -> Iterator[object]:
    """Make the view of a fleet."""

    def make(*instances: Instance, rules: PairingRules = AUTOMATIC) -> FleetView:
        book = ledger(64)
        endpoints = [(endpoint, owner) for owner in instances for endpoint in owner.endpoints]
        targets = {
            endpoint.id: Target(endpoint, owner, book, row, 1, SharedState())
            for row, (endpoint, owner) in enumerate(endpoints)
        }
        return FleetView(FleetSnapshot(instances=instances), targets, rules)

    return make


def names(view: FleetView) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Pairs, singles and leftovers of the model `m`, by instance names."""
    routes = view.routes["m"]

    def of(group: Group) -> str:
        return "+".join(target.instance.name for target in group.targets)

    return (
        [(of(pair.prefills), of(pair.decodes)) for pair in routes.pairs],
        [of(single.targets) for single in routes.singles],
        [of(single.targets) for single in routes.leftovers],
    )


@pytest.mark.parametrize(("fleet", "pairs", "singles", "leftovers"), [
    ("union-0", [], ["union-0"], []),
    ("encode-0 union-0 union-1", [], ["union-0+union-1"], []),
    ("prefill-0 decode-0", [("prefill-0", "decode-0")], [], []),
    ("encode-0 prefill-0 prefill-1 decode-0", [("prefill-0+prefill-1", "decode-0")], [], []),
    ("union-0 prefill-0 decode-0", [("prefill-0", "decode-0")], ["union-0"], []),
    ("prefill-0", [], [], ["prefill-0"]),
    ("encode-0 decode-0", [], [], ["decode-0"]),
])  # fmt: skip
def test_ways(view_of: object, fleet: str, pairs: list[object], singles: list[str], leftovers: list[str]) -> None:
    assert callable(view_of)
    assert names(view_of(*map(instance, fleet.split()))) == (pairs, singles, leftovers)


def test_an_encoder_alone_serves_nobody(view_of: object) -> None:
    assert callable(view_of)
    assert view_of(instance("encode-0")).routes == {}


def test_only_what_can_pair_is_paired(view_of: object) -> None:
    assert callable(view_of)
    other = instance("decode-1", pairing="another model")
    found = names(view_of(instance("prefill-0"), instance("decode-0"), other))
    assert found == ([("prefill-0", "decode-0")], [], [])
    assert names(view_of(instance("prefill-0"), other))[0] == []


def by(dialect: KVDialect, name: str, connector: str = "", bootstrap: str = "", **changes: object) -> Instance:
    """An instance that hands over by this dialect."""
    role = Role(name.partition("-")[0])
    kv = KVTransfer(
        connector=connector or f"{dialect.value}-connector",
        dialect=dialect,
        produces=role is Role.PREFILL,
        consumes=role is Role.DECODE,
        bootstrap=bootstrap,
    )
    return instance(name, kv=kv, **changes)


def test_old_and_new_engines_are_two_pairs_beside_each_other(view_of: object) -> None:
    assert callable(view_of)
    old = [instance(name, pairing="engine=1") for name in ("prefill-0", "decode-0")]
    new = [instance(name, pairing="engine=2") for name in ("prefill-1", "decode-1")]
    assert names(view_of(*old, *new))[0] == [("prefill-0", "decode-0"), ("prefill-1", "decode-1")]
    alone = names(view_of(*old, new[0]))
    assert alone == ([("prefill-0", "decode-0")], [], [])


@pytest.mark.parametrize("dialect", KVDialect)
def test_every_dialect_has_its_pair_and_its_rules(view_of: object, dialect: KVDialect) -> None:
    assert callable(view_of)
    fleet = (by(dialect, "prefill-0"), by(dialect, "decode-0"))
    assert names(view_of(*fleet)) == ([("prefill-0", "decode-0")], [], [])
    assert view_of(*fleet).has(dialect)
    forbidden = view_of(*fleet, rules=PairingRules("single_node"))
    assert names(forbidden) == ([], [], ["prefill-0", "decode-0"])
    assert not forbidden.has(dialect)


def test_each_connector_pairs_with_its_like_only(view_of: object) -> None:
    assert callable(view_of)
    fleet = [
        by(dialect, f"{role}-{number}") for number, dialect in enumerate(KVDialect) for role in ("prefill", "decode")
    ]
    assert names(view_of(*fleet))[0] == [(f"prefill-{number}", f"decode-{number}") for number in range(len(KVDialect))]


def test_prefill_engines_with_their_own_bootstrap_servers_stand_in_for_each_other(view_of: object) -> None:
    assert callable(view_of)
    prefills = [by(KVDialect.PAIRED, f"prefill-{n}", bootstrap=f"http://10.0.0.{n}:8998") for n in range(2)]
    view = view_of(*prefills, by(KVDialect.PAIRED, "decode-0"))
    assert names(view)[0] == [("prefill-0+prefill-1", "decode-0")]


@pytest.mark.parametrize(("connector", "by_room"), [("MooncakeConnector", False), ("sglang-mooncake", True)])
def test_paired_legs_meet_as_their_engine_wants(view_of: object, connector: str, by_room: bool) -> None:
    assert callable(view_of)
    view = view_of(*(by(KVDialect.PAIRED, name, connector) for name in ("prefill-0", "decode-0")))
    (pair,) = view.routes["m"].pairs
    assert (pair.connector, pair.joins_by_room) == (connector, by_room)


@pytest.mark.parametrize("state", [state for state in InstanceState if state is not InstanceState.ACTIVE])
def test_only_active_instances_serve(view_of: object, state: InstanceState) -> None:
    assert callable(view_of)
    assert view_of(instance("union-0", state=state)).routes == {}


def test_encoders_of_another_store_are_not_asked(view_of: object) -> None:
    assert callable(view_of)
    elsewhere = ECTransfer(
        connector="ECExampleConnector", dialect=ECDialect.STORE, produces=True, consumes=False, store="/elsewhere"
    )
    view = view_of(instance("encode-0", ec=elsewhere), instance("union-0"))
    assert view.routes["m"].singles[0].encoders is None
    assert view_of(instance("encode-0"), instance("union-0")).routes["m"].singles[0].encoders is not None


def group_of(size: int) -> tuple[Group, Ledger]:
    """Endpoints that can stand in for each other."""
    book = ledger(size)
    owners = [instance(f"union-{number}") for number in range(size)]
    targets = [Target(owner.endpoints[0], owner, book, row, 1, SharedState()) for row, owner in enumerate(owners)]
    return Group(targets), book


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=120))
def test_always_the_least_loaded(size: int, steps: list[tuple[int, bool]]) -> None:
    """Loads that come and go in any order; sizes on both sides of the change from loop to array."""
    group, book = group_of(size)
    policy = LoadBalance(book)
    held: list[Reservation] = []
    for tokens, release in steps:
        if release and held:
            held.pop(tokens % len(held)).end()
            continue
        chosen = policy.choose(group, NOBODY)
        assert chosen is not None
        assert book.load(chosen.row) == min(book.load(row) for row in group.rows)
        held.append(Reservation.on(chosen, tokens, tokens))
    for reservation in held:
        reservation.end()
    assert [book.load(row) for row in group.rows] == [0] * size


@given(st.integers(1, 40), st.sampled_from((LoadBalance, RoundRobin)))
def test_equals_take_turns(size: int, kind: type) -> None:
    group, book = group_of(size)
    policy = kind(book) if kind is LoadBalance else kind()
    chosen = [policy.choose(group, NOBODY).row for _ in range(size * 2)]
    assert sorted(chosen) == sorted([*range(size)] * 2)


@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_who_is_avoided_is_not_chosen(size: int, avoided: set[int]) -> None:
    group, book = group_of(size)
    avoid = frozenset(f"union-{number}/0" for number in avoided)
    left = [target for target in group.targets if target.endpoint_id not in avoid]
    for policy in (LoadBalance(book), RoundRobin()):
        chosen = policy.choose(group, avoid)
        assert chosen in left if left else chosen is None
