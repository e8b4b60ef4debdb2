"""`env.json`: from JSON values to environment variables, and what cannot become one."""

from __future__ import annotations

import pytest
from configs import at, errors, load, separate


def env(tmp_path, content):
    return load(tmp_path, separate(), content)


def test_values_become_words(tmp_path):
    config = env(
        tmp_path,
        {"motor_common_env": {"A": "x", "B": 200, "C": 0.5, "D": True, "E": ""}, "motor_engine_decode_env": {"A": "y"}},
    )
    assert config.ok
    assert config.env.variables("decode") == {"A": "y", "B": "200", "C": "0.5", "D": "true", "E": ""}
    assert config.env.variables("controller") == {"A": "x", "B": "200", "C": "0.5", "D": "true", "E": ""}
    assert 'the word "true"' in at(config, "$.motor_common_env.D").message


def test_nothing_in_a_value_is_special(tmp_path):
    hostile = "$(reboot) `id` \"'\\ \n é 世"
    config = env(tmp_path, {"motor_common_env": {"A": hostile}})
    assert config.problems == ()
    assert config.env.variables("encode") == {"A": hostile}


def test_union_gets_what_prefill_gets(tmp_path):
    prefill = {"A": "prefill"}
    assert env(tmp_path, {"motor_engine_prefill_env": prefill}).env.variables("union") == prefill
    both = {"motor_engine_prefill_env": prefill, "motor_engine_union_env": {}}
    assert env(tmp_path, both).env.variables("union") == {}


def test_an_unknown_role(tmp_path):
    with pytest.raises(KeyError):
        env(tmp_path, {}).env.variables("etcd")


@pytest.mark.parametrize(
    ("content", "path", "words"),
    [
        ({"motor_common_env": {"A": None}}, "$.motor_common_env.A", ["found null"]),
        ({"motor_common_env": {"A": ["x"]}}, "$.motor_common_env.A", ["found a list", "a string"]),
        ({"motor_common_env": {"A": {"str": 1}}}, "$.motor_common_env.A", ["found an object"]),
        ({"motor_common_env": {"2A": "x"}}, '$.motor_common_env["2A"]', ["letters, digits and _"]),
        ({"motor_common_env": {"A=B": "x"}}, '$.motor_common_env["A=B"]', ["letters, digits and _"]),
        ({"motor_common_env": {"": "x"}}, '$.motor_common_env[""]', ["letters, digits and _"]),
        ({"motor_common_env": {"A;reboot": "x"}}, '$.motor_common_env["A;reboot"]', ["letters, digits and _"]),
        ({"motor_common_env": {"A\n": "x"}}, '$.motor_common_env["A\\n"]', ["letters, digits and _"]),
        ({"motor_common_env": {"A": "x\0y"}}, "$.motor_common_env.A", ["NUL"]),
        ({"motor_engine_prefil_env": {}}, "$.motor_engine_prefil_env", ["did you mean motor_engine_prefill_env?"]),
        ({"motor_deploy_config": {}}, "$.motor_deploy_config", ["belongs in user_config.json"]),
        ({"motor_common_env": ["A=1"]}, "$.motor_common_env", ["found a list", "an object"]),
    ],
)
def test_broken(tmp_path, content, path, words):
    config = env(tmp_path, content)
    (problem,) = errors(config)
    for word in [path, *words]:
        assert word in str(problem)
