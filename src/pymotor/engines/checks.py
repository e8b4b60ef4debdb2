"""`check_engines`: what must agree between the engines of a configuration, and what an engine cannot do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pymotor.config import Problem, UserConfig
from pymotor.engines import check_events, check_options, check_pairs, check_transfer
from pymotor.engines.checked import CheckedEngine, checked_engines
from pymotor.fleet import Role

ENGINE_CHECKS: tuple[Callable[[CheckedEngine], Iterator[Problem]], ...] = (
    check_options.model,
    check_options.booleans,
    check_options.placed,
    check_options.processor_cache,
    check_transfer.presence,
    check_transfer.kv_connector,
    check_transfer.ec_connector,
    check_transfer.roles,
    check_transfer.refused,
    check_events.events,
)
"""Of each engine by itself."""

FLEET_CHECKS: tuple[Callable[[check_pairs.Engines], Iterator[Problem]], ...] = (
    check_pairs.encode_and_consumers,
    check_pairs.prefill_and_decode,
    check_pairs.served_names,
)
"""Of the engines together."""


def check_engines(user: UserConfig, file: str) -> list[Problem]:
    """Every problem of the engine sections that takes knowledge of engines to see; `file` is named in them."""
    engines = checked_engines(user, file)
    problems = [problem for engine in engines.values() for check in ENGINE_CHECKS for problem in check(engine)]
    if user.instance_count(Role.ENCODE.value) == 0:
        engines.pop(Role.ENCODE, None)  # described but not asked for: nobody needs to agree with it
    return problems + [problem for check in FLEET_CHECKS for problem in check(engines)]
