"""Checks of one engine's options, whatever the other engines are."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config import Problem
from pymotor.engines import sglang, vllm
from pymotor.engines.checked import CheckedEngine
from pymotor.fleet import Role


def model(engine: CheckedEngine) -> Iterator[Problem]:
    """An engine serves a model."""
    option = "model_path" if engine.type == "sglang" and "model" not in engine.options else "model"
    found = engine.options.get(option)
    if found is None:
        yield engine.error(f"names no {option}", do=f'add "{option}": the path of the model')
    elif not isinstance(found, str) or not found:
        yield engine.error("not a model", option, allowed="the path of the model or its name in a model hub")
    names = engine.options.get("served_model_name")
    if names is not None and not _is_names(names):
        yield engine.error("not a name for clients", "served_model_name", allowed="a string or a list of strings")


def booleans(engine: CheckedEngine) -> Iterator[Problem]:
    """vLLM's switches stand without a value on its command line."""
    if engine.type == "sglang":
        return
    for name, value in engine.options.items():
        positive = name.removeprefix("no_")
        if positive not in vllm.STYLE.switches and name not in vllm.STYLE.flags and name not in vllm.OWN_SWITCHES:
            continue
        if value is not None and not isinstance(value, bool):
            do = f"write {str(value).lower()} without quotes" if str(value).lower() in ("true", "false") else ""
            yield engine.error("a boolean is expected", name, allowed="true or false", do=do)
        elif name != positive and positive in engine.options and engine.options[positive] is value:
            yield engine.error(f"contradicts {engine.section.written(positive)}", name, do="remove one of them")


def placed(engine: CheckedEngine) -> Iterator[Problem]:
    """Addresses, ports and ranks follow from where an engine is placed."""
    names = sglang.PLACED_OPTIONS if engine.type == "sglang" else vllm.PLACED_OPTIONS - {"model"}
    for name in engine.options:
        if name in names:
            yield engine.warning("not passed on: PyMotor sets it", name, do="remove it")


def processor_cache(engine: CheckedEngine) -> Iterator[Problem]:
    """Without the processor cache and without prefix caching, vLLM numbers media items instead of naming them by
    their content, and no other engine finds them."""
    value = engine.options.get("mm_processor_cache_gb")
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not _is_zero(value):
        return
    do = "remove it, or give it a positive number of GiB"
    # an encode-only engine turns prefix caching off by itself
    if engine.role is Role.ENCODE:
        yield engine.error("without this cache no other engine finds the embeddings", "mm_processor_cache_gb", do=do)
    elif engine.role is Role.UNION and engine.setting("ec_transfer_config") is None:
        return
    elif prefix_caching_is_off(engine):
        message = "without this cache and without prefix caching no embedding is found"
        yield engine.error(message, "mm_processor_cache_gb", do=do)
    else:
        message = "media are prepared again for every request, and found only while prefix caching is on"
        yield engine.warning(message, "mm_processor_cache_gb", do=do)


def prefix_caching_is_off(engine: CheckedEngine) -> bool:
    """Whether the user turned vLLM's prefix caching off."""
    options = engine.options
    return options.get("enable_prefix_caching") is False or options.get("no_enable_prefix_caching") is True


def _is_names(names: object) -> bool:
    if isinstance(names, str):
        return bool(names)
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) and name for name in names)


def _is_zero(value: float | str) -> bool:
    try:
        return float(value) == 0
    except ValueError:
        return False
