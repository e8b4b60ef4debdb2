"""Options as words of a command line, and back by a parser like the engine's."""

from __future__ import annotations

import argparse
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.engines import vllm
from pymotor.engines.command_line import CommandLineStyle, option_words

STYLE = CommandLineStyle(
    switches=frozenset({"enable_prefix_caching", "enforce_eager"}),
    flags=frozenset({"headless"}),
    json_lists=frozenset({"allowed_origins"}),
    repeated=frozenset({"middleware"}),
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_model_len": 4096}, ["--max-model-len", "4096"]),
        ({"max-model-len": "128k"}, ["--max-model-len", "128k"]),
        ({"--seed": 1}, ["--seed", "1"]),
        ({"gpu_memory_utilization": 0.9}, ["--gpu-memory-utilization", "0.9"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce-eager": False}, ["--no-enforce-eager"]),
        ({"no-enable-prefix-caching": True}, ["--no-enable-prefix-caching"]),
        ({"no_enable_prefix_caching": False}, ["--enable-prefix-caching"]),
        ({"headless": False}, []),
        ({"seed": None}, []),
        ({"served_model_name": ["a", "b"]}, ["--served-model-name", "a", "b"]),
        ({"allowed_origins": ["*"]}, ["--allowed-origins", '["*"]']),
        ({"middleware": ["a.B", "c.d"]}, ["--middleware", "a.B", "--middleware", "c.d"]),
        ({"lora_modules": [{"name": "x", "path": "/x"}]}, ["--lora-modules", '{"name":"x","path":"/x"}']),
        ({"limit_mm_per_prompt": {"image": 3}}, ["--limit-mm-per-prompt", '{"image":3}']),
        ({"chat_template": "-x"}, ["--chat-template=-x"]),
        ({"model": "模型 with blanks; $(rm)"}, ["--model", "模型 with blanks; $(rm)"]),
    ],
)
def test_one_option(options: dict[str, Any], words: list[str]) -> None:
    assert option_words(options, STYLE).words == tuple(words)


def test_false_of_an_option_without_a_negative_form_is_told() -> None:
    made = option_words({"something_new": False}, STYLE)
    assert made.words == ()
    assert "something_new" in made.warnings[0]
    assert "--no-something-new" in made.warnings[0]


def test_an_empty_list_is_told() -> None:
    made = option_words({"served_model_name": []}, STYLE)
    assert made.words == ()
    assert "served_model_name" in made.warnings[0]


names = st.text(string.ascii_lowercase + "_", min_size=2, max_size=12).filter(
    lambda name: name.strip("_") == name and "__" not in name and not name.startswith("no_")
)
texts = st.text(max_size=20)
plain_values = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.dictionaries(texts, st.one_of(texts, st.integers(), st.booleans(), st.none(), st.lists(texts)), max_size=4),
)


@given(st.dictionaries(names, plain_values, max_size=6), st.data())
def test_every_option_round_trips_through_a_parser(options: dict[str, Any], data: st.DataObject) -> None:
    """An argparse parser made as vLLM makes its own reads back what was written, hyphens or underscores."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name, value in options.items():
        spelled = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(spelled, action=argparse.BooleanOptionalAction, dest=name)
        else:
            readers: dict[type, Any] = {dict: json.loads, int: int, float: float}
            parser.add_argument(spelled, type=readers.get(type(value), str), dest=name)
    style = CommandLineStyle(switches=frozenset(options), flags=frozenset(), json_lists=frozenset())
    spelled_options = {
        name.replace("_", "-") if data.draw(st.booleans()) else name: value for name, value in options.items()
    }
    made = option_words(spelled_options, style)
    assert made.warnings == ()
    assert vars(parser.parse_args(list(made.words))) == options


def test_switches_of_vllm_are_options_that_begin_without_no() -> None:
    assert not [name for name in vllm.STYLE.switches if name.startswith("no_") or "-" in name]
    assert {"enable_prefix_caching", "enforce_eager", "trust_remote_code"} <= vllm.STYLE.switches
