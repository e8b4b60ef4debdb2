"""Whether a fleet can answer requests, for which models, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pymotor.coordinator.pairing import AUTOMATIC, PairingRules, answers_alone
from pymotor.fleet import EndpointState, FleetSnapshot, Instance, Role, can_hand_over_embeddings


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet can do now."""

    models: tuple[str, ...] = ()
    """Models whose requests can be answered, in the order the fleet names them."""
    missing: tuple[str, ...] = ()
    """For each model that cannot be served, what it lacks, in words for a person; if no model is known, why."""
    degraded: tuple[str, ...] = ()
    """What is served, but not as the fleet was laid out: a role that is down, instances that cannot pair."""

    @property
    def ready(self) -> bool:
        """Whether at least one model can be served."""
        return bool(self.models)


def takes_legs(instance: Instance) -> bool:
    """Whether the instance is active and has an endpoint that is ready."""
    return instance.serves and any(endpoint.state is EndpointState.READY for endpoint in instance.endpoints)


def serving_endpoints(snapshot: FleetSnapshot) -> frozenset[str]:
    """Ids of the endpoints that may get new legs."""
    return frozenset(
        endpoint.id
        for instance in snapshot.instances
        if instance.serves
        for endpoint in instance.endpoints
        if endpoint.state is EndpointState.READY
    )


def readiness(snapshot: FleetSnapshot | None, rules: PairingRules = AUTOMATIC) -> Readiness:
    """What the fleet of `snapshot` can do; None stands for a fleet nobody has told us of yet.

    A model is served by a union instance, by a prefill and a decode instance that can hand KV cache over, or by
    prefill or decode instances alone, which then compute the whole request themselves.
    """
    if snapshot is None:
        return Readiness(missing=("no fleet snapshot has arrived yet",))
    by_model: dict[str, list[Instance]] = {}
    for instance in snapshot.instances:
        for model in instance.models:
            by_model.setdefault(model, []).append(instance)
    if not by_model:
        return Readiness(missing=(f"the fleet has no instance that serves a model{_why(list(snapshot.instances))}",))
    served: list[str] = []
    missing: list[str] = []
    degraded: list[str] = []
    for model, instances in by_model.items():
        able = [instance for instance in instances if takes_legs(instance)]
        if any(map(answers_alone, able)) or _has_pair(able, rules):
            served.append(model)
            degraded += [f"{model}: {lack}" for lack in _shortcomings(instances, able, rules)]
        else:
            missing.append(f"{model}: {_lack(instances, able, rules)}")
    return Readiness(models=tuple(served), missing=tuple(missing), degraded=tuple(degraded))


def _has_pair(able: list[Instance], rules: PairingRules) -> bool:
    decodes = [instance for instance in able if instance.role is Role.DECODE]
    prefills = (instance for instance in able if instance.role is Role.PREFILL)
    return any(not rules.obstacle(prefill, decode) for prefill in prefills for decode in decodes)


def _lack(instances: list[Instance], able: list[Instance], rules: PairingRules) -> str:
    """What a model that cannot be served lacks."""
    halves = [instance for instance in able if instance.role is not Role.ENCODE]
    if not halves:
        return f"no {_computing_roles(instances)} instance is active{_why(instances)}"
    prefills, decodes = ([one for one in halves if one.role is role] for role in (Role.PREFILL, Role.DECODE))
    reasons = _unpaired(prefills, decodes, rules)
    if reasons:
        return "; ".join(reasons)
    return f"{', '.join(one.name for one in halves)} cannot answer without the other stage{_why(instances, halves)}"


def _computing_roles(instances: list[Instance]) -> str:
    """The roles that could answer a request for these instances' model, as the fleet has them."""
    roles = {instance.role for instance in instances} - {Role.ENCODE}
    names = [role.value for role in Role if role in (roles or set(Role) - {Role.ENCODE})]
    return " or ".join(names)


def _why(instances: list[Instance], able: Sequence[Instance] = ()) -> str:
    """The instances beside those `able` that could answer but do not, with state and fault."""
    waiting = [one for one in instances if one.role is not Role.ENCODE and one not in able]
    if not waiting:
        return ""
    return " (" + "; ".join(_condition(instance) for instance in waiting) + ")"


def _condition(instance: Instance) -> str:
    state = instance.state.value if not instance.serves else "active without a ready endpoint"
    return f"{instance.name} is {state}" + (f": {instance.fault}" if instance.fault else "")


def _shortcomings(instances: list[Instance], able: list[Instance], rules: PairingRules) -> list[str]:
    lacks = [
        f"no {role.value} instance is active"
        for role in Role
        if any(instance.role is role for instance in instances) and not any(instance.role is role for instance in able)
    ]
    encoders, prefills, decodes, unions = (
        [instance for instance in able if instance.role is role]
        for role in (Role.ENCODE, Role.PREFILL, Role.DECODE, Role.UNION)
    )
    lacks += _unpaired(prefills, decodes, rules)
    consumers = prefills + unions or decodes
    if encoders and not any(can_hand_over_embeddings(e, c) for e in encoders for c in consumers):
        lacks.append("no encode instance can hand embeddings over to an active instance")
    return lacks


def _unpaired(prefills: list[Instance], decodes: list[Instance], rules: PairingRules) -> list[str]:
    """Prefill and decode instances that work with nobody though both roles are there, and why.

    Instances that are alike have the same reason, which is told once.
    """
    if not prefills or not decodes:
        return []
    obstacles = {(p.name, d.name): rules.obstacle(p, d) for p in prefills for d in decodes}
    if all(obstacles.values()):
        reasons = dict.fromkeys(obstacles.values())
        return [f"no prefill and decode instance work together: {'; '.join(reasons)}"]
    lacks = []
    for position, instances in enumerate((prefills, decodes)):
        for instance in instances:
            reasons = dict.fromkeys(why for pair, why in obstacles.items() if pair[position] == instance.name)
            if all(reasons):
                lacks.append(f"{instance.name} gets no requests: {'; '.join(reasons)}")
    return lacks
