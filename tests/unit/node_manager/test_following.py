"""What a node does about an order: decided from what runs, never from an older order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pymotor.fleet import NodeOrder, Role
from pymotor.node_manager.following import RunKey, Step, accepts, next_step


def order(instance: str = "decode-0", **fields: object) -> NodeOrder:
    known: dict[str, object] = {"epoch": 1, "revision": 1, "generation": 1, "role": Role.DECODE if instance else None}
    return NodeOrder(instance=instance, **{**known, **fields})  # type: ignore[arg-type]


whole = st.integers(0, 3)
orders = st.builds(
    NodeOrder,
    epoch=whole,
    revision=whole,
    instance=st.sampled_from(["", "decode-0", "decode-1"]),
    generation=st.integers(1, 3),
    node_rank=st.integers(0, 1),
    nodes=st.integers(1, 2),
    master_address=st.sampled_from(["", "10.0.0.1", "10.0.0.2"]),
    draining=st.booleans(),
    cordoned=st.booleans(),
    released=st.booleans(),
)
keys = st.none() | orders.filter(lambda one: one.instance).map(RunKey.of)


@given(st.lists(orders), st.integers(-1, 3))
def test_orders_only_grow(received: list[NodeOrder], epoch: int) -> None:
    held: NodeOrder | None = None
    for one in received:
        if accepts(one, held, epoch):
            assert held is None or one.age > held.age
            assert one.epoch >= epoch
            held, epoch = one, one.epoch


@given(orders, keys, keys, st.booleans())
def test_each_way_ends(wanted: NodeOrder, runs: RunKey | None, failed: RunKey | None, leaving: bool) -> None:
    """Whatever runs, after at most a stop and a start nothing is left to do, and it is what was wanted."""
    steps = []
    while (step := next_step(wanted, runs, failed, leaving=leaving)) not in (Step.NOTHING, Step.END):
        steps.append(step)
        assert len(steps) <= 2
        runs = None if step is Step.STOP else RunKey.of(wanted)
    assert steps in ([], [Step.STOP], [Step.START], [Step.STOP, Step.START])
    if leaving:
        assert Step.START not in steps
    if wanted.released:
        assert (step, runs) == (Step.END, None)
    elif not wanted.instance:
        assert runs is None
    elif runs is not None:
        assert runs.instance == wanted.instance
        assert runs.generation >= wanted.generation


@given(orders.filter(lambda one: bool(one.instance)), st.booleans(), st.booleans())
def test_drains_and_cordons_touch_no_server(wanted: NodeOrder, draining: bool, cordoned: bool) -> None:
    runs = RunKey.of(wanted)
    changed = replace(wanted, released=False, draining=draining, cordoned=cordoned, revision=wanted.revision + 1)
    assert next_step(changed, runs, None) is Step.NOTHING


def test_what_runs_ends_for_another_generation_place_or_instance() -> None:
    runs = RunKey.of(order(generation=2, nodes=2, node_rank=1, master_address="a"))
    same = order(generation=2, nodes=2, node_rank=1, master_address="a")
    assert next_step(same, runs, None) is Step.NOTHING
    assert next_step(replace(same, generation=3), runs, None) is Step.STOP
    assert next_step(replace(same, node_rank=0), runs, None) is Step.STOP
    assert next_step(replace(same, master_address="b"), runs, None) is Step.STOP
    assert next_step(replace(same, instance="decode-1"), runs, None) is Step.STOP
    assert next_step(replace(same, generation=1), runs, None) is Step.NOTHING, "a Controller that does not know us yet"
    assert next_step(replace(same, master_address=""), runs, None) is Step.NOTHING


def test_nothing_is_started_before_all_nodes_are_there_or_again_what_cannot_be_planned() -> None:
    assert next_step(None, None, None) is Step.NOTHING
    assert next_step(order(nodes=2), None, None) is Step.NOTHING
    assert next_step(order(nodes=2, master_address="a"), None, None) is Step.START
    assert next_step(order(), None, RunKey.of(order())) is Step.NOTHING
    assert next_step(order(generation=2), None, RunKey.of(order())) is Step.START
