"""`pymotor validate` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine_configs import epd, options_of, union, write_config


def validate(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pymotor", "validate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def broken() -> dict[str, Any]:
    config = epd()
    config["motor_deploy_config"]["p_instances_num"] = "one"
    options_of(config, "decode")["model"] = "/other/model"
    options_of(config, "prefill")["kv_transfer_config"]["kv_connector"] = "NixlConector"
    return config


def test_all_problems_of_both_kinds_are_printed_with_a_count(tmp_path: Path) -> None:
    directory = write_config(tmp_path, broken(), {"motor_comon_env": {}})
    done = validate("--config_dir", directory)
    assert done.returncode == 1
    assert "$.motor_deploy_config.p_instances_num" in done.stdout
    assert "$.motor_engine_decode_config.engine_config.model" in done.stdout
    assert "did you mean NixlConnector?" in done.stdout
    assert f"{directory / 'env.json'}: $.motor_comon_env" in done.stdout
    lines = done.stdout.splitlines()
    kinds = [line.partition(":")[0] for line in lines if line.startswith(("error:", "warning:"))]
    assert kinds == sorted(kinds)
    number = kinds.count("error"), kinds.count("warning")
    assert lines[-1].endswith(f": {number[0]} errors, {number[1]} warnings")


def test_json_has_the_same_problems(tmp_path: Path) -> None:
    directory = write_config(tmp_path, broken())
    done = validate(
        "--user_config_path", directory / "user_config.json", "--env_config_path", directory / "env.json", "--json"
    )
    said = json.loads(done.stdout)
    assert done.returncode == 1
    assert said["ok"] is False
    assert said["errors"] == sum(problem["severity"] == "error" for problem in said["problems"]) >= 3
    assert {"severity", "file", "path", "message", "value", "allowed", "suggestion"} == said["problems"][0].keys()


def test_warnings_alone_are_good(tmp_path: Path) -> None:
    done = validate("--config-dir", write_config(tmp_path, epd()))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("0 errors, 4 warnings")


def test_no_problems(tmp_path: Path) -> None:
    done = validate("--config_dir", write_config(tmp_path, union()))
    assert (done.returncode, done.stdout.strip().rpartition(": ")[2]) == (0, "no problems")


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in (
        (),
        ("--config_dir", tmp_path, "--user_config_path", "x"),
        ("--env_config_path", "x"),
        ("--nonsense",),
    ):
        done = validate(*arguments)
        assert done.returncode == 2
        assert "usage: pymotor" in done.stderr
        assert done.stdout == ""


def test_a_file_that_is_missing_or_no_json(tmp_path: Path) -> None:
    assert validate("--config_dir", tmp_path / "nowhere").returncode == 1
    (tmp_path / "user_config.json").write_text("{")
    done = validate("--config_dir", tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith(f"error: {tmp_path / 'user_config.json'}")
