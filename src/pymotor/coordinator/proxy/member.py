"""One engine of a static fleet: what is known of it, and how that changes with what it answers."""

from __future__ import annotations

from enum import Enum

from pymotor.coordinator.proxy.addresses import Address
from pymotor.coordinator.proxy.handoffs import Handoffs
from pymotor.coordinator.proxy.inquiry import Served
from pymotor.fleet import Endpoint, EndpointState, Instance, InstanceState, Role

_SILENCES = 3
"""So often in a row an engine may be silent: one that computes a long batch can be."""


class Phase(Enum):
    """Where an engine is in its life before the proxy."""

    EXPECTED = "expected"
    """It has not answered yet."""
    SERVING = "serving"
    UNWELL = "unwell"
    LEAVING = "leaving"
    """It gets nothing new; what runs is finished."""


_STATES = {
    Phase.EXPECTED: (InstanceState.INITIAL, EndpointState.STARTING),
    Phase.SERVING: (InstanceState.ACTIVE, EndpointState.READY),
    Phase.UNWELL: (InstanceState.INACTIVE, EndpointState.UNHEALTHY),
    Phase.LEAVING: (InstanceState.DRAINING, EndpointState.READY),
}


class Member:
    """One engine."""

    __slots__ = ("_silences", "address", "fault", "name", "phase", "role", "served", "tries_left")

    def __init__(self, role: Role, address: Address, number: int, tries: int | None = None) -> None:
        """`number` is unique among those of the role; after so many `tries` without an answer it is given up, after
        none with None."""
        self.role = role
        self.address = address
        self.name = f"{role.value}-{number}"
        self.phase = Phase.EXPECTED
        self.served: Served | None = None
        self.fault = "it has not been asked yet"
        self.tries_left = tries
        self._silences = 0

    @property
    def endpoint_id(self) -> str:
        """Of its only endpoint."""
        return f"{self.name}/0"

    def instance(self, handoffs: Handoffs, media_path: str) -> Instance:
        """As the Coordinator is told of it."""
        state, endpoint_state = _STATES[self.phase]
        served = self.served
        return Instance(
            name=self.name,
            role=self.role,
            models=served.models if served is not None else (),
            engine="vllm",
            state=state,
            endpoints=(Endpoint(id=self.endpoint_id, url=self.address.url, state=endpoint_state),),
            kv=handoffs.kv_transfer(self.role, self.address),
            ec=handoffs.ec_transfer(self.role, self.address),
            max_model_len=served.max_model_len if served is not None else None,
            allowed_local_media_path=media_path,
            fault=f"{self.address}: {self.fault}" if self.fault else "",
        )

    def answered(self, served: Served | None) -> bool:
        """It is well, and serves what it says (None: what it did). Returns whether that is news."""
        self._silences = 0
        self.tries_left = None
        former = (self.phase, self.served)
        if served is not None:
            self.served = served
        if self.phase is not Phase.LEAVING:
            self.phase = Phase.SERVING
            self.fault = ""
        return former != (self.phase, self.served)

    def was_silent(self, fault: str) -> bool:
        """It did not answer in time; counts when it happens again and again. Returns whether it is news."""
        self._silences += 1
        if self.phase is Phase.SERVING and self._silences < _SILENCES:
            return False
        return self.is_unwell(fault)

    def is_unwell(self, fault: str) -> bool:
        """It cannot serve. Returns whether that is news."""
        if self.tries_left is not None:
            self.tries_left -= 1
        former = (self.phase, self.fault)
        if self.phase is Phase.SERVING:
            self.phase = Phase.UNWELL
        self.fault = fault
        return former != (self.phase, self.fault)

    @property
    def given_up(self) -> bool:
        """Whether it was added and never answered."""
        return self.phase is Phase.EXPECTED and self.tries_left is not None and self.tries_left <= 0

    def leave(self) -> None:
        """It is to get nothing new."""
        self.phase = Phase.LEAVING
        self.fault = "it was removed; what runs on it is finished"

    def stay(self) -> None:
        """It was removed and is wanted again."""
        self.phase = Phase.SERVING if self.served is not None else Phase.EXPECTED
        self.fault = "" if self.served is not None else "it has not been asked yet"
