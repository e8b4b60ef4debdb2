"""Services: the names and ports by which clients and parts find parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pymotor.config import UserConfig
from pymotor.deployer.naming import (
    CONTROLLER,
    COORDINATOR,
    KV_CONDUCTOR,
    KV_POOL,
    SINGLE,
    Manifest,
    Naming,
)
from pymotor.deployer.objects.probes import ports_of
from pymotor.deployer.services_used import replicas_of


class Offer(NamedTuple):
    """One Service of a part."""

    purpose: str
    ports: tuple[str, ...]
    """Names of the container's ports."""
    node_port: int | None = None
    """Of each node, 0: any free one; None: reached from inside the cluster only."""


def services(user: UserConfig, naming: Naming, part: str) -> Iterator[Manifest]:
    """The Services of a part, as objects."""
    for offer in _offers(user, part):
        metadata = naming.metadata(naming.service(part, offer.purpose), part)
        yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": _spec(user, naming, part, offer)}


def role_services(user: UserConfig, naming: Naming, part: str) -> list[dict[str, Any]]:
    """The Services of a part, as a role of a set states them; the operator adds no selector of its own."""
    return [
        {
            "name": naming.service_stem(part, offer.purpose),
            "metadata": {"labels": naming.labels(part)},
            "spec": _spec(user, naming, part, offer),
        }
        for offer in _offers(user, part)
    ]


def _offers(user: UserConfig, part: str) -> list[Offer]:
    nodes = user.motor_deploy_config.kubernetes_config
    if part == CONTROLLER:
        offers = [Offer("api", ("api",))]
        if "alarms" in ports_of(user, part):
            offers.append(Offer("alarms", ("alarms",), nodes.alarm_node_port))
        return offers
    if part == COORDINATOR:
        return [
            Offer("infer", ("infer",), nodes.coordinator_node_port),
            Offer("management", ("management",)),
            Offer("observability", ("metrics",), nodes.observability_node_port),
        ]
    if part == SINGLE:
        return [Offer("infer", ("infer",), nodes.coordinator_node_port)]
    return {KV_POOL: [Offer("pool", ("pool", "metrics"))], KV_CONDUCTOR: [Offer("conductor", ("conductor",))]}.get(
        part, []
    )


def _spec(user: UserConfig, naming: Naming, part: str, offer: Offer) -> dict[str, Any]:
    numbers = ports_of(user, part)
    ports: list[dict[str, Any]] = [
        {"name": name, "port": numbers[name], "targetPort": name, "protocol": "TCP"} for name in offer.ports
    ]
    if offer.node_port:
        ports[0]["nodePort"] = offer.node_port
    spec: dict[str, Any] = {
        "type": "ClusterIP" if offer.node_port is None else "NodePort",
        "selector": naming.selector(part),
        "ports": ports,
    }
    if offer.purpose == "infer" and replicas_of(user, part) == 1:
        # A client that comes too early is told so by the Coordinator itself, instead of being refused.
        spec["publishNotReadyAddresses"] = True
    return spec
