"""What a fleet can serve and what it lacks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sample_fleets import DECODE, ENCODE, PREFILL, UNION, fleet, instance, kv

from pymotor.coordinator.pairing import PairingRules
from pymotor.coordinator.readiness import readiness
from pymotor.fleet import Endpoint, EndpointState, FleetSnapshot, Instance, InstanceState, KVDialect, Role

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
            [
                "tiny: no prefill and decode instance work together: prefill differs from decode: "
                "'' against 'another model'"
            ],
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


def pair(dialect: KVDialect, **decode_changes: Any) -> FleetSnapshot:
    prefill = instance("prefill-0", Role.PREFILL, kv=kv(Role.PREFILL, dialect))
    return fleet(prefill, instance("decode-0", Role.DECODE, **{"kv": kv(Role.DECODE, dialect), **decode_changes}))


@pytest.mark.parametrize(
    ("mode", "served"),
    [
        (None, set(KVDialect)),
        ("pd_separate", set(KVDialect)),
        ("pd_disaggregation_single_container", set(KVDialect)),
        ("cpcd_separate", {KVDialect.PULL, KVDialect.STORE}),
        ("cdp_separate", {KVDialect.CALLBACK}),
        ("pd_dual_dispatch", {KVDialect.PAIRED}),
        ("single_node", set()),
    ],
)
@pytest.mark.parametrize("dialect", KVDialect)
def test_a_deploy_mode_leaves_its_dialects(mode: str | None, served: set[KVDialect], dialect: KVDialect) -> None:
    degraded = readiness(pair(dialect), PairingRules(mode)).degraded
    if dialect in served:
        assert degraded == ()
    else:
        assert f"deploy_mode {mode}" in degraded[0]


FAR = (Endpoint(id="decode-0/0", url="http://10.0.0.7:8000", state=EndpointState.READY),)


@pytest.mark.parametrize(
    ("host", "endpoints", "told"),
    [
        ("127.0.0.1", DECODE.endpoints, ""),
        ("10.0.0.1", FAR, ""),
        ("coordinator.default.svc", FAR, ""),
        ("", DECODE.endpoints, "coordinator_api_host"),
        ("127.0.0.1", FAR, "from 10.0.0.7 nobody reaches 127.0.0.1"),
    ],
)
def test_decode_must_be_able_to_call_back(host: str, endpoints: tuple[Endpoint, ...], told: str) -> None:
    rules = PairingRules(callback_host=host)
    degraded = readiness(pair(KVDialect.CALLBACK, endpoints=endpoints), rules).degraded
    assert told in degraded[0] if told else degraded == ()
    assert readiness(pair(KVDialect.PULL, endpoints=endpoints), rules).degraded == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairing": "model=/m engine=vllm-0.32"}, "engine vllm-0.31 against vllm-0.32"),
        ({"pairing": "model=/m"}, "engine vllm-0.31 against unknown"),
        ({"kv": kv(Role.DECODE, KVDialect.CALLBACK)}, "(dialect pull), decode by NixlConnector (callback)"),
        ({"kv": None}, "decode takes no KV cache over"),
    ],
)
def test_what_keeps_prefill_and_decode_apart_is_named(changes: dict[str, Any], told: str) -> None:
    prefill = instance("prefill-0", Role.PREFILL, pairing="model=/m engine=vllm-0.31")
    decode = instance("decode-0", Role.DECODE, **{"pairing": prefill.pairing, **changes})
    (line,) = readiness(fleet(prefill, decode)).degraded
    assert line.startswith("tiny: no prefill and decode instance work together: ")
    assert told in line


def test_a_stage_of_sglang_serves_nobody_alone() -> None:
    def half(role: Role, **changes: Any) -> Instance:
        transfer = msgspec.structs.replace(kv(role, KVDialect.PAIRED), connector="sglang-mooncake")
        return instance(f"{role.value}-0", role, kv=transfer, **changes)

    whole = readiness(fleet(half(Role.PREFILL), half(Role.DECODE)))
    assert (whole.models, whole.degraded) == (("tiny",), ())
    lost = readiness(fleet(half(Role.PREFILL), half(Role.DECODE, state=InstanceState.INACTIVE, fault="killed")))
    assert lost.missing == ("tiny: prefill-0 cannot answer without the other stage (decode-0 is inactive: killed)",)
    apart = readiness(fleet(half(Role.PREFILL), half(Role.DECODE, pairing="engine=2")))
    assert "differs" in apart.missing[0]
    assert not apart.ready


def test_of_an_upgrade_only_whoever_is_alone_is_named() -> None:
    old = [instance(f"{role.value}-0", role, pairing="engine=1") for role in (Role.PREFILL, Role.DECODE)]
    new = instance("prefill-1", Role.PREFILL, pairing="engine=2")
    assert readiness(fleet(*old, new)).degraded == (
        "tiny: prefill-1 gets no requests: prefill differs from decode: engine 2 against 1",
    )
    assert readiness(fleet(*old, new, instance("decode-1", Role.DECODE, pairing="engine=2"))).degraded == ()
