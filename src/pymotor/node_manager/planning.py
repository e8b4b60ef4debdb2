"""From an order to the servers of this node: the engines' planner with what this machine has."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymotor.config import EnvConfig, UserConfig
from pymotor.engines import HostResources, InstancePlan, NoPortLeftError, PlanError, plan_instance
from pymotor.engines.parts import WHOLE, InstancePart
from pymotor.engines.port_claims import PortClaims
from pymotor.engines.tls import EngineTLS
from pymotor.engines.vllm_python import NoVllmError, VllmPython, find_vllm_python
from pymotor.fleet import NodeOrder, Role


class OrderError(Exception):
    """An order that cannot be followed on this node; the message says why."""


@dataclass(frozen=True)
class PlannedOrder:
    """The servers of one order, and the ports that belong to them until `claims` is closed."""

    plan: InstancePlan
    claims: PortClaims


class OrderPlanner:
    """Plans the orders of one node, each with ports and an identity of its own."""

    def __init__(
        self,
        user: UserConfig,
        env: EnvConfig,
        job: str,
        address: str,
        devices: tuple[int, ...] | None,
        store: Path | None,
        ranktable_path: Path | None,
        make_claims: Callable[[], PortClaims] = PortClaims,
        tls: EngineTLS | None = None,
    ) -> None:
        """`devices`: what engines may be given, None: as many as are wanted. `store`: where instances meet when the
        configuration names no directory. `ranktable_path`: where engines look for the instance's device table.
        `tls`: what engines serve HTTP with."""
        self._user = user
        self._env = env
        self._job = job
        self._address = address
        self._devices = devices
        self._store = store
        self._ranktable_path = ranktable_path
        self._make_claims = make_claims
        self._tls = tls
        self._vllm: VllmPython | None = None

    def plan(self, order: NodeOrder) -> PlannedOrder:
        """Plan what the order asks of this node; writes its ranktable. Raises `OrderError`.

        Looking for vLLM takes seconds the first time: not for the event loop.
        """
        if order.role is None or order.instance != f"{order.role.value}-{order.number}":
            raise OrderError(f"the order names no instance: {order.instance!r} is not <role>-<number>")
        with contextlib.ExitStack() as undone:
            try:
                claims = undone.enter_context(contextlib.closing(self._make_claims()))
                host = self._host(order.role, claims)
                plan = plan_instance(self._user, self._env, order.role, order.number, host, self._part(order))
                self._write_ranktable(order.ranktable)
            except (PlanError, NoPortLeftError, NoVllmError) as error:
                raise OrderError(str(error)) from error
            except OSError as error:
                raise OrderError(f"this node cannot follow the order: {error}") from error
            undone.pop_all()
        return PlannedOrder(plan, claims)

    def _host(self, role: Role, claims: PortClaims) -> HostResources:
        section = self._user.engine_section(role.value)
        if section is not None and section.engine_type == "vllm" and self._vllm is None:
            self._vllm = find_vllm_python(Path.cwd())
        vllm = self._vllm or VllmPython("", "")
        return HostResources(
            self._address,
            python=vllm.python,
            engine_version=vllm.version,
            shared_directory=self._store,
            devices=self._devices,
            port_is_free=claims.claim_unbound,
            tls=self._tls,
        )

    def _part(self, order: NodeOrder) -> InstancePart:
        """All nodes of one generation come to the same identity by themselves; those of another generation, or of an
        instance that was put together from other nodes, to another."""
        if order.nodes == 1:
            return WHOLE
        run = "\0".join((self._job, order.instance, order.master_address, str(order.generation)))
        digest = hashlib.sha256(run.encode()).hexdigest()[:12]
        return InstancePart(
            node_rank=order.node_rank,
            nodes=order.nodes,
            master_address=order.master_address,
            identity=f"{order.instance}-{digest}",
        )

    def _write_ranktable(self, content: str) -> None:
        path = self._ranktable_path
        if path is None or not content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
