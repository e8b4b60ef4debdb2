"""A NodeManager as docs/fleet.md wants it, without processes: what it holds, runs and says."""

from __future__ import annotations

from pymotor.fleet import (
    Endpoint,
    EndpointState,
    Instance,
    NodeOrder,
    NodeReport,
    ReportReply,
    Role,
    ServerReport,
)


class ModelNode:
    """One node; `run` is what its server was started as."""

    def __init__(self, name: str, role: Role = Role.UNION, size: int = 1, **facts: object) -> None:
        self.name = name
        self.role = role
        self.size = size
        self.facts = facts
        self.start = 0
        self.begin()

    def begin(self) -> None:
        """Its NodeManager starts, the first time or anew; nothing of a former one runs."""
        self.start += 1
        self.incarnation = f"{self.name}+{self.start}"
        self.sequence = 0
        self.epoch = -1
        self.held: NodeOrder | None = None
        self.run: NodeOrder | None = None
        self.state = EndpointState.GONE
        self.leaving = False
        self.ended = False
        self.load = 0

    def report(self, wait_seconds: float = 0.0) -> NodeReport:
        """What it says now."""
        self.sequence += 1
        run = self.run
        return NodeReport(
            node=self.name,
            incarnation=self.incarnation,
            sequence=self.sequence,
            job="job",
            role=self.role,
            address=self.name,
            nodes_per_instance=self.size,
            held=self.held,
            share=self._share(run) if run is not None else None,
            servers=()
            if run is None
            else (
                ServerReport(
                    name=run.instance,
                    state=self.state,
                    endpoint_id=f"{run.instance}/{run.node_rank}",
                    running=self.load,
                    load_known=True,
                ),
            ),
            started_generation=run.generation if run is not None else None,
            leaving=self.leaving,
            wait_seconds=wait_seconds,
            **self.facts,  # type: ignore[arg-type]
        )

    def _share(self, run: NodeOrder) -> Instance:
        assert run.role is not None
        endpoint = Endpoint(id=f"{run.instance}/{run.node_rank}", url=f"http://{self.name}:1", state=self.state)
        return Instance(name=run.instance, role=run.role, models=("m",), engine="sim", endpoints=(endpoint,))

    def take(self, reply: ReportReply) -> None:
        """Follow the order of a reply, unless it is older than what is known."""
        if reply.epoch < self.epoch:
            return
        self.epoch = reply.epoch
        order = reply.order
        if order is None or (self.held is not None and order.age <= self.held.age):
            return
        self.held = order
        if self.run is not None and _task(self.run) != _task(order):
            self.run = None
        if self.run is None and order.instance and order.master_address:
            self.run, self.state = order, EndpointState.STARTING
        self.ended = self.ended or order.released or (self.leaving and not order.instance)

    def work(self) -> None:
        """Time passes for its server: one that starts is ready then, one that is gone starts where it may."""
        if self.run is None:
            return
        if self.state is EndpointState.STARTING:
            self.state = EndpointState.READY
        elif self.state is EndpointState.GONE and self.size == 1:
            self.state = EndpointState.STARTING

    def crash(self) -> None:
        """Its server ends by itself."""
        self.state = EndpointState.GONE


def _task(order: NodeOrder) -> tuple[str, int, int]:
    return order.instance, order.node_rank, order.generation
