"""The JSON schema that editors use."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
from configs import SEEDS, separate

from changed_config import with_changes


def schema(*words: str) -> dict[str, object]:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pymotor", "schema", *words], capture_output=True, text=True, check=True, timeout=60
    )
    printed: dict[str, object] = json.loads(done.stdout)
    return printed


def test_every_key_is_explained():
    def walk(part, definitions, place):
        if isinstance(part, dict):
            for key, inner in part.get("properties", {}).items():
                section = definitions.get(inner.get("$ref", "").rpartition("/")[2], {})
                assert inner.get("description") or section.get("description"), f"{place}.{key}"
            for key, inner in part.items():
                walk(inner, definitions, f"{place}.{key}")

    for file in ("user_config", "env"):
        printed = schema(file)
        assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        walk(printed, printed.get("$defs", {}), "$")


def test_unknown_file_is_wrong_usage():
    done = subprocess.run([sys.executable, "-m", "pymotor", "schema", "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "user_config" in done.stderr


def test_the_schema_judges_as_we_do():
    user = jsonschema.Draft202012Validator(schema())
    user.validate(json.loads((SEEDS / "epd_user_config.json").read_text(encoding="utf-8")))
    user.validate(separate())
    for changes in (
        {"motor_deploy_config.p_instances_num": 17},
        {"motor_deploy_config.hardware_type": "800I-A2"},
        {"motor_deploy_config.typo": 1},
        {"motor_deploy_config.job_id": "A B"},
    ):
        assert not user.is_valid(with_changes(separate(), changes))
    env = jsonschema.Draft202012Validator(schema("env"))
    env.validate(json.loads((SEEDS / "hybrid_env.json").read_text(encoding="utf-8")))
    assert not env.is_valid({"motor_common_env": {"A": None}})
    assert not env.is_valid({"motor_common_env": {"A B": "x"}})
