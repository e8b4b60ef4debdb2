"""What each engine is called, how it is started and what its connectors can do.

Names are imported when they are first used: the simulated engine and the guardian live in this room and start
without the rest of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymotor.engines.checks import check_engines
    from pymotor.engines.host import HostResources, NoPortLeftError
    from pymotor.engines.kept_servers import KeptServers
    from pymotor.engines.plan import InstancePlan, PlanError, ServerPlan
    from pymotor.engines.planning import plan_instance
    from pymotor.engines.process import EngineProcess, EngineStartError
    from pymotor.engines.versions import installed_version

__all__ = [
    "EngineProcess",
    "EngineStartError",
    "HostResources",
    "InstancePlan",
    "KeptServers",
    "NoPortLeftError",
    "PlanError",
    "ServerPlan",
    "check_engines",
    "installed_version",
    "plan_instance",
]

_HOMES = {
    "check_engines": "checks",
    "EngineProcess": "process",
    "EngineStartError": "process",
    "HostResources": "host",
    "InstancePlan": "plan",
    "KeptServers": "kept_servers",
    "NoPortLeftError": "host",
    "PlanError": "plan",
    "ServerPlan": "plan",
    "installed_version": "versions",
    "plan_instance": "planning",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
