"""Whatever a file holds, loading it ends with a model and problems, never with an exception."""

from __future__ import annotations

import json

from configs import SEEDS, load, separate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.checks import check_env, check_user
from pymotor.config.schema import json_schema
from pymotor.config.source import parse_object
from pymotor.config.validation import validate

KEYS = sorted(
    {key for model in (UserConfig, EnvConfig) for key in json.dumps(json_schema(model)).split('"') if "_" in key}
    | {"version", "aigw", "model", "tensor-parallel-size", "kv-events-config", "connectors", "str", "[key]", "port"}
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS
    | st.sampled_from(["vllm", "sglang", "sim", "kv_cache_affinity", "single_container", "800I_A2", 8, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), VALUES, max_size=5)
SOME = settings(max_examples=100, suppress_health_check=list(HealthCheck))


@SOME
@given(content=OBJECTS, strict=st.booleans())
def test_any_object(tmp_path_factory, content, strict):
    directory = tmp_path_factory.getbasetemp()
    config = load(directory, content, content, strict=strict)
    for problem in config.problems:
        str(problem).encode()
        json.dumps(problem.as_json()).encode()


@SOME
@given(text=st.text(max_size=40) | st.text(alphabet='{}[]",:\\ \n1a-', max_size=20))
def test_any_text(text):
    source = parse_object(text, "f")
    assert (source.value is None) <= bool(source.problems)


@st.composite
def seeds_with_one_thing_changed(draw):
    """The guide's configuration with another value at one place, at any depth."""
    content = json.loads((SEEDS / "epd_user_config.json").read_text(encoding="utf-8"))
    content = draw(st.sampled_from([content, separate()]))
    holder = content
    while True:
        key = draw(st.sampled_from([*holder, "new_key"]))
        inner = holder.get(key)
        if not isinstance(inner, dict) or not inner or draw(st.booleans()):
            holder[key] = draw(VALUES)
            return content
        holder = inner


@SOME
@given(content=seeds_with_one_thing_changed())
def test_one_thing_changed(tmp_path_factory, content):
    config = load(tmp_path_factory.getbasetemp(), content)
    for problem in config.problems:
        str(problem).encode()
    if config.ok:
        assert config.user is not None
        for role in ("encode", "prefill", "decode", "union"):
            assert config.user.instance_count(role) >= 0
            assert (config.user.engine_section(role) is not None) or not config.user.instance_count(role)


@SOME
@given(content=OBJECTS)
def test_what_is_accepted_means_the_same_again(tmp_path_factory, content):
    """The model of what was right, written out, is right."""
    for model, check in (
        (UserConfig, lambda user: check_user(user, "f", tmp_path_factory.getbasetemp())),
        (EnvConfig, lambda env: check_env(env, "f")),
    ):
        source = parse_object(json.dumps(content), "f")
        assert source.value is not None
        built, _ = validate(model, source.value, "f", strict=True)
        written = built.model_dump(by_alias=True, exclude_unset=True)
        again, problems = validate(model, written, "f", strict=True)
        assert again == built
        assert [problem for problem in problems if problem.severity == "error"] == []
        check(built)
