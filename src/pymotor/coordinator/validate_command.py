"""`pymotor validate`: every problem of user_config.json and env.json at once."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pymotor.config import Problem, load_config
from pymotor.coordinator.own_checks import check_for_elsewhere
from pymotor.engines.checks import check_engines

USER_CONFIG, ENV_CONFIG = "user_config.json", "env.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pymotor validate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Check user_config.json and env.json and print every problem at once: file, JSON path, value, what is\n"
        "allowed, what to do. Starts nothing.\n\n"
        "  pymotor validate --config_dir examples/infer_engines/vllm\n"
        "  pymotor validate --user_config_path user_config.json --env_config_path env.json --json"
    )
    parser.epilog = "Exit status: 0 nothing to mend (there may be warnings), 1 errors, 2 wrong usage."
    parser.add_argument("--config_dir", "--config-dir", type=Path, metavar="DIR", help="directory with both files")
    parser.add_argument("--user_config_path", "--user-config-path", type=Path, metavar="FILE", help="user_config.json")
    parser.add_argument("--env_config_path", "--env-config-path", type=Path, metavar="FILE", help="env.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Check the files; returns 1 when there are errors, else 0. Exits with 2 when the files are not named rightly."""
    user_path, env_path = _paths(arguments)
    config = load_config(user_path, env_path)
    problems = list(config.problems)
    if config.user is not None:
        file = str(user_path)
        problems = _merged(problems, check_engines(config.user, file))
        environment = {**os.environ, **config.env.variables("coordinator")}
        problems = _merged(problems, check_for_elsewhere(config.user, file, environment))
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    counts: Counter[str] = Counter(problem.severity for problem in problems)
    if arguments.json:
        print(_as_json(ordered, counts))
    else:
        print(_as_text(ordered, counts, [path for path in (user_path, env_path) if path is not None]))
    return 1 if counts["error"] else 0


def _paths(arguments: argparse.Namespace) -> tuple[Path, Path | None]:
    directory: Path | None = arguments.config_dir
    user: Path | None = arguments.user_config_path
    env: Path | None = arguments.env_config_path
    if directory is not None:
        if user is not None or env is not None:
            arguments.usage_error("--config_dir already names both files; give it alone")
        env_path = directory / ENV_CONFIG
        return directory / USER_CONFIG, env_path if env_path.exists() else None
    if user is None:
        arguments.usage_error("give --config_dir DIR, or --user_config_path FILE and --env_config_path FILE")
    assert user is not None
    return user, env


def _merged(problems: Sequence[Problem], more: Sequence[Problem]) -> list[Problem]:
    """Both, without what only follows from an error that was already told of the same place."""
    broken = {problem.path for problem in problems if problem.severity == "error"}
    return [*problems, *(problem for problem in more if problem.path not in broken)]


def _as_text(problems: Sequence[Problem], counts: Counter[str], files: Sequence[Path]) -> str:
    checked = " and ".join(str(path) for path in files)
    if not problems:
        return f"{checked}: no problems"
    total = f"{checked}: {_number(counts['error'], 'error')}, {_number(counts['warning'], 'warning')}"
    return "\n".join([*(str(problem) for problem in problems), total])


def _as_json(problems: Sequence[Problem], counts: Counter[str]) -> str:
    content = {
        "ok": not counts["error"],
        "errors": counts["error"],
        "warnings": counts["warning"],
        "problems": [problem.as_json() for problem in problems],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
