"""A NodeManager without processes, network and time: what it decides is decided by the real one's functions."""

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
from pymotor.node_manager.following import HeldOrder, RunKey, Step, next_step


class ModelNode:
    """One node; `run` is what its server was started as. A server that is ended is gone when its node has worked."""

    def __init__(self, name: str, role: Role = Role.UNION, size: int = 1, **facts: object) -> None:
        self.name = name
        self.role = role
        self.size = size
        self.facts = facts
        self.start = 0
        self.started: list[RunKey] = []
        """All servers that its NodeManagers have started, one after the other."""
        self.begin()

    def begin(self) -> None:
        """Its NodeManager starts, the first time or anew; nothing of a former one runs."""
        self.start += 1
        self.incarnation = f"{self.name}+{self.start}"
        self.sequence = 0
        self.holds = HeldOrder()
        self.run: NodeOrder | None = None
        self.stopping = False
        self.state = EndpointState.GONE
        self.leaving = False
        self.ended = False
        self.load = 0

    @property
    def held(self) -> NodeOrder | None:
        """The newest order that it took over."""
        return self.holds.order

    @held.setter
    def held(self, order: NodeOrder | None) -> None:
        self.holds.order = order

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
        if not self.ended:
            self.holds.take(reply)
            self._follow()

    def _follow(self) -> None:
        if self.stopping:
            return
        runs = RunKey.of(self.run) if self.run is not None else None
        step = next_step(self.held, runs, None, leaving=self.leaving)
        if step is Step.START:
            assert self.held is not None
            self.run, self.state = self.held, EndpointState.STARTING
            self.started.append(RunKey.of(self.held))
        elif step is Step.STOP:
            self.stopping, self.state = True, EndpointState.GONE
        elif step is Step.END or (runs is None and self.leaving):
            self.ended = True

    def work(self) -> None:
        """Time passes for its server: one that starts is ready then, one that is ended is no more, one that is gone
        starts where it may."""
        if self.run is None:
            return
        if self.stopping:
            self.run, self.stopping = None, False
            self._follow()
        elif self.state is EndpointState.STARTING:
            self.state = EndpointState.READY
        elif self.state is EndpointState.GONE and self.size == 1:
            self.state = EndpointState.STARTING

    def crash(self) -> None:
        """Its server ends by itself."""
        self.state = EndpointState.GONE
