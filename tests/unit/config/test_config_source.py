"""Files that are no JSON object, or not quite: line, column and what was found."""

from __future__ import annotations

import pytest
from configs import load

from pymotor.config import load_config
from pymotor.config.source import parse_object

SYNTAX = {
    "": ["empty"],
    " \n\n": ["empty"],
    '{"a": 1,}': ["line 1, column 9", '"}" was found', "remove the comma"],
    '{"a": 1\n "b": 2}': ["line 2, column 2", "a comma", "missing"],
    '{"a": 1, // note\n "b": 2}': ["line 1, column 10", "no comments"],
    "{'a': 1}": ["line 1, column 2", "double quotes"],
    '{"a": True}': ["line 1, column 7", '"True" was found', "true, false and null"],
    '{"a": "b\n"}': ["line 1, column 9", "the end of the line inside a string"],
    '{"a": "b': ["line 1, column 7", "begun here and not ended"],
    '{"a": "C:\\weights"}': ["line 1, column 10", "\\\\"],
    '{"a": 1}}': ["line 1, column 9", '"}"', "after the end"],
    '{"a": [1, 2': ["the end of the file", "close what is open"],
    '{"a" 1}': ["line 1, column 6", "a colon"],
    '{"a": }': ["line 1, column 7", "a value", '"}" was found'],
    "[1, 2]": ["a list, not a JSON object"],
    "null": ["null, not a JSON object"],
    '"text"': ["a string, not a JSON object"],
    '{"a": ' + "1" * 5000 + "}": ["too many digits"],
    '{"a": ' + "[" * 100_000: ["deeper than 64 levels"],
}


@pytest.mark.parametrize("text", SYNTAX, ids=lambda text: text[:20])
def test_syntax(text):
    source = parse_object(text, "user_config.json")

    assert source.value is None
    (problem,) = source.problems
    assert (problem.severity, problem.file, problem.path) == ("error", "user_config.json", "$")
    for word in SYNTAX[text]:
        assert word in str(problem)


def test_all_that_json_allows_and_nobody_means():
    source = parse_object(
        '{"a": {"b": 1, "c": [{"b": 1, "b": 1}], "b": 2, "a b": NaN}, "d": "\\ud800", "e": 1e999}', "f"
    )
    assert [problem.path for problem in source.problems] == ["$.a.b", "$.a.c[0].b", '$.a["a b"]', "$.d", "$.e"]
    assert "more than once" in source.problems[0].message
    assert "half of a character" in source.problems[3].message


def test_deep_values_are_told_and_cut():
    source = parse_object('{"a": ' + "[" * 70 + "]" * 70 + "}", "f")
    assert source.value is not None
    assert "deeper than 64 levels" in source.problems[0].message


def test_a_byte_order_mark_is_no_mistake():
    assert parse_object('{"a": 1}', "f").problems == ()


def test_files_that_cannot_be_read(tmp_path):
    missing = load_config(tmp_path / "user_config.json", None)
    assert missing.user is None
    assert "does not exist" in str(missing.problems[0])

    directory = load_config(tmp_path, None)
    assert "is a directory" in str(directory.problems[0])
    assert str(tmp_path / "user_config.json") in directory.problems[0].suggestion

    latin = tmp_path / "latin.json"
    latin.write_bytes('{"a":\n "é"}'.encode("latin-1"))
    assert "line 2, byte 3" in str(load_config(latin, None).problems[0])

    marked = tmp_path / "marked.json"
    marked.write_bytes(b'\xef\xbb\xbf{"version": "v2.0"}')
    assert "UTF-8" not in str(load_config(marked, None).problems[0])


def test_a_broken_env_does_not_hide_the_user_config(tmp_path):
    config = load(tmp_path, {"version": 1, "typo": 2}, "{")
    files = {problem.file.rpartition("/")[2] for problem in config.problems}
    assert files == {"user_config.json", "env.json"}
    assert config.user is not None
    assert config.env.variables("prefill") == {}
