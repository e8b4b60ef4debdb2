"""What a fleet can serve and what it lacks."""

from __future__ import annotations

import msgspec
import pytest
from sample_fleets import DECODE, ENCODE, PREFILL, UNION, fleet, instance, kv

from pymotor.coordinator.readiness import readiness
from pymotor.fleet import EndpointState, FleetSnapshot, InstanceState, KVDialect, Role

STARTING = InstanceState.INITIAL


@pytest.mark.parametrize(
    ("snapshot", "degraded"),
    [
        (fleet(UNION), []),
        (fleet(PREFILL, DECODE), []),
        (fleet(ENCODE, PREFILL, DECODE), []),
        (fleet(ENCODE, UNION), []),
        (fleet(PREFILL), []),
        (fleet(DECODE, ENCODE), []),
        (
            fleet(PREFILL, instance("decode-0", Role.DECODE, state=STARTING)),
            ["tiny: no decode instance is active"],
        ),
        (
            fleet(instance("encode-0", Role.ENCODE, state=STARTING), UNION),
            ["tiny: no encode instance is active"],
        ),
        (
            fleet(PREFILL, instance("decode-0", Role.DECODE, pairing="another model")),
            ["tiny: no prefill and decode instance can hand KV cache over to each other"],
        ),
        (
            fleet(ENCODE, instance("union-0", Role.UNION, ec=None)),
            ["tiny: no encode instance can hand embeddings over to an active instance"],
        ),
    ],
)
def test_a_model_is_served_by_whoever_computes(snapshot: FleetSnapshot, degraded: list[str]) -> None:
    able = readiness(snapshot)
    assert able.ready
    assert able.models == ("tiny",)
    assert able.missing == ()
    assert list(able.degraded) == degraded


@pytest.mark.parametrize(
    ("snapshot", "missing"),
    [
        (None, "no fleet snapshot has arrived yet"),
        (fleet(), "the fleet has no instance that serves a model"),
        (fleet(ENCODE), "tiny: no prefill or decode or union instance is active"),
        (
            fleet(instance("union-0", Role.UNION, state=InstanceState.INACTIVE, fault="killed by signal 9")),
            "tiny: no union instance is active (union-0 is inactive: killed by signal 9)",
        ),
        (
            fleet(
                instance("prefill-0", Role.PREFILL, state=STARTING),
                instance(
                    "decode-0",
                    Role.DECODE,
                    endpoints=(msgspec.structs.replace(DECODE.endpoints[0], state=EndpointState.UNHEALTHY),),
                ),
                ENCODE,
            ),
            "tiny: no prefill or decode instance is active"
            " (prefill-0 is initial; decode-0 is active without a ready endpoint)",
        ),
    ],
)
def test_what_is_missing_is_named(snapshot: FleetSnapshot | None, missing: str) -> None:
    able = readiness(snapshot)
    assert not able.ready
    assert able.missing == (missing,)


def test_each_model_is_judged_by_its_own_instances() -> None:
    other = instance("union-1", Role.UNION, models=("other", "adapter"), state=STARTING)
    able = readiness(fleet(UNION, other))
    assert able.models == ("tiny",)
    assert [line.split(":")[0] for line in able.missing] == ["other", "adapter"]


def test_pairs_whose_dialect_has_no_path_yet_are_named() -> None:
    snapshot = fleet(
        *(instance(f"{role.value}-0", role, kv=kv(role, KVDialect.PAIRED)) for role in (Role.PREFILL, Role.DECODE))
    )
    assert readiness(snapshot).degraded == (
        "tiny: prefill and decode do not work together: dialect paired is not served yet",
    )
