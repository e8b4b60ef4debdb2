"""Which ways a request can take through the fleet as it is now.

A `FleetView` is made once for each snapshot; a request asks it for the routes of its model and pays nothing for
the rest of the fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pymotor.coordinator.pairing import AUTOMATIC, PairingRules, answers_alone
from pymotor.coordinator.readiness import readiness
from pymotor.coordinator.scheduling.encoder_choice import EncoderChoice
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import (
    ECTransfer,
    EndpointState,
    FleetSnapshot,
    Instance,
    KVDialect,
    KVTransfer,
    Role,
    can_hand_over_embeddings,
)
from pymotor.fleet.dialects import SGLANG_CONNECTOR


class Encoders:
    """Encode endpoints whose embeddings one group of consumers can use."""

    __slots__ = ("choice", "group")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.choice = EncoderChoice(
            group.targets[0].ledger, [target.endpoint_id for target in group.targets], group.rows
        )


class Pair:
    """Prefill and decode endpoints of which any two can hand KV over."""

    __slots__ = ("connector", "decodes", "dialect", "encoders", "handoff_seconds", "joins_by_room", "prefills")

    def __init__(self, prefills: Group, decodes: Group, transfer: KVTransfer, encoders: Encoders | None) -> None:
        """`transfer` is how the prefill endpoints hand over."""
        self.prefills = prefills
        self.decodes = decodes
        self.connector = transfer.connector
        self.dialect = transfer.dialect
        self.handoff_seconds = transfer.handoff_seconds
        self.joins_by_room = transfer.dialect is KVDialect.PAIRED and transfer.connector.startswith(SGLANG_CONNECTOR)
        """Whether paired legs meet by SGLang's `bootstrap_room`; else by vLLM's `transfer_id`."""
        self.encoders = encoders
        """Encoders whose embeddings the prefill endpoints can use; None without any."""


class Single:
    """Endpoints that answer alone: union, or what is left of a pair whose other half is lost."""

    __slots__ = ("encoders", "role", "targets")

    def __init__(self, targets: Group, role: Role, encoders: Encoders | None) -> None:
        self.targets = targets
        self.role = role
        self.encoders = encoders


class Routes:
    """The ways for one model: any of `pairs`, any of `singles` (union), any of `leftovers` (a half pair)."""

    __slots__ = ("leftovers", "max_model_len", "pairs", "singles")

    def __init__(
        self,
        pairs: Sequence[Pair],
        singles: Sequence[Single],
        leftovers: Sequence[Single],
        max_model_len: int | None,
    ) -> None:
        self.pairs = tuple(pairs)
        self.singles = tuple(singles)
        self.leftovers = tuple(leftovers)
        self.max_model_len = max_model_len


class FleetView:
    """The routes of every model of one snapshot."""

    def __init__(self, snapshot: FleetSnapshot, targets: Mapping[str, Target], rules: PairingRules = AUTOMATIC) -> None:
        """`targets` has every endpoint of the snapshot by id."""
        self.version = (snapshot.epoch, snapshot.version)
        serving = [instance for instance in snapshot.instances if instance.serves]
        models = dict.fromkeys(
            model for instance in serving if instance.role is not Role.ENCODE for model in instance.models
        )
        self.routes: dict[str, Routes] = {}
        for model in models:
            routes = _routes([instance for instance in serving if model in instance.models], targets, rules)
            if routes.pairs or routes.singles or routes.leftovers:
                self.routes[model] = routes
        self.missing = () if self.routes else readiness(snapshot, rules).missing
        """What is missing, in words for a person, where no model has a route."""

    def has(self, dialect: KVDialect) -> bool:
        """Whether any model's requests may go by a pair of this dialect."""
        return any(pair.dialect is dialect for routes in self.routes.values() for pair in routes.pairs)


def _routes(instances: Sequence[Instance], targets: Mapping[str, Target], rules: PairingRules) -> Routes:
    by_role: dict[Role, list[Instance]] = {role: [] for role in Role}
    for instance in instances:
        by_role[instance.role].append(instance)
    encoders = by_role[Role.ENCODE]
    pairs = _pairs(by_role[Role.PREFILL], by_role[Role.DECODE], encoders, targets, rules)
    singles = _singles(by_role[Role.UNION], Role.UNION, encoders, targets)
    leftovers: list[Single] = []
    if not pairs:
        for role in (Role.PREFILL, Role.DECODE):
            leftovers += _singles([one for one in by_role[role] if answers_alone(one)], role, encoders, targets)
    lengths = [instance.max_model_len for instance in instances if instance.max_model_len is not None]
    return Routes(pairs, singles, leftovers, min(lengths, default=None))


def _pairs(
    prefills: Sequence[Instance],
    decodes: Sequence[Instance],
    encoders: Sequence[Instance],
    targets: Mapping[str, Target],
    rules: PairingRules,
) -> list[Pair]:
    pairs: list[Pair] = []
    for group in _alike(prefills):
        first = group[0]
        partners = _group((decode for decode in decodes if not rules.obstacle(first, decode)), targets)
        prefill_group = _group(group, targets)
        if first.kv is not None and partners is not None and prefill_group is not None:
            pairs.append(Pair(prefill_group, partners, first.kv, _encoders_for(first, encoders, targets)))
    return pairs


def _singles(
    instances: Sequence[Instance], role: Role, encoders: Sequence[Instance], targets: Mapping[str, Target]
) -> list[Single]:
    singles = []
    for group in _alike(instances):
        found = _group(group, targets)
        if found is not None:
            singles.append(Single(found, role, _encoders_for(group[0], encoders, targets)))
    return singles


def _alike(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Instances grouped by whom they can hand over to and take from."""
    groups: dict[tuple[object, ...], list[Instance]] = {}
    for instance in instances:
        kv = msgspec.structs.replace(instance.kv, bootstrap="") if instance.kv is not None else None
        groups.setdefault((instance.pairing, kv, _taking(instance.ec)), []).append(instance)
    return list(groups.values())


def _taking(transfer: ECTransfer | None) -> tuple[object, ...] | None:
    if transfer is None or not transfer.consumes:
        return None
    return (transfer.dialect, transfer.store)


def _encoders_for(consumer: Instance, encoders: Sequence[Instance], targets: Mapping[str, Target]) -> Encoders | None:
    group = _group((encoder for encoder in encoders if can_hand_over_embeddings(encoder, consumer)), targets)
    return Encoders(group) if group is not None else None


def _group(instances: Iterable[Instance], targets: Mapping[str, Target]) -> Group | None:
    found = [
        targets[endpoint.id]
        for instance in instances
        for endpoint in instance.endpoints
        if endpoint.state is EndpointState.READY
    ]
    return Group(found) if found else None
