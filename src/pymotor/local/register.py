"""Who is in the fleet and how they are, as the numbered snapshots the Coordinator reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from pymotor.engines.plan import InstancePlan
from pymotor.fleet import EndpointState, FleetSnapshot, Instance, InstanceState, Role, encode_snapshot
from pymotor.local.state import write_atomically


class FleetRegister:
    """The instances of one fleet; each change is a new version in the file.

    An instance serves when all its servers do: a rank that is gone takes its instance with it.
    """

    def __init__(self, plans: Iterable[InstancePlan], file: Path, epoch: int = 0) -> None:
        """Writes the first version, in which everybody is still starting."""
        self._instances: dict[str, Instance] = {}
        self._instance_of: dict[str, str] = {}
        for plan in plans:
            self._instances[plan.instance.name] = plan.instance
            for server in plan.servers:
                self._instance_of[server.endpoint.id] = plan.instance.name
        self._file = file
        self._epoch = epoch
        self._version = 0
        self._write()

    @property
    def snapshot(self) -> FleetSnapshot:
        """The fleet as it is now."""
        return FleetSnapshot(epoch=self._epoch, version=self._version, instances=tuple(self._instances.values()))

    @property
    def can_answer(self) -> bool:
        """Whether an instance is left that can compute an answer; an encoder alone cannot."""
        return any(instance.serves and instance.role is not Role.ENCODE for instance in self._instances.values())

    def instance_of(self, endpoint_id: str) -> Instance:
        """The instance an endpoint belongs to, as it stands now."""
        return self._instances[self._instance_of[endpoint_id]]

    def mark(self, endpoint_id: str, state: EndpointState, fault: str = "") -> Instance:
        """One endpoint is in another state; returns its instance as it stands now.

        Raises `OSError` when the file cannot be written; the change counts all the same.
        """
        before = self.instance_of(endpoint_id)
        endpoints = tuple(
            replace(endpoint, state=state) if endpoint.id == endpoint_id else endpoint for endpoint in before.endpoints
        )
        after = replace(before, endpoints=endpoints, fault=fault or before.fault)
        after = replace(after, state=_instance_state(after))
        if after.state is InstanceState.ACTIVE:
            after = replace(after, fault="")
        if after != before:
            self._instances[after.name] = after
            self._version += 1
            self._write()
        return after

    def _write(self) -> None:
        write_atomically(self._file, encode_snapshot(self.snapshot))


def _instance_state(instance: Instance) -> InstanceState:
    states = {endpoint.state for endpoint in instance.endpoints}
    if states == {EndpointState.READY}:
        return InstanceState.ACTIVE
    if states == {EndpointState.GONE}:
        return InstanceState.GONE
    if states & {EndpointState.GONE, EndpointState.UNHEALTHY}:
        return InstanceState.INACTIVE
    return InstanceState.INITIAL
