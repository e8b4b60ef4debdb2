"""`pymotor deploy`, and `deploy.py`: from the configuration to Kubernetes objects, and those to a cluster."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from pymotor.command_output import Parser, in_one_line
from pymotor.control_plane.arguments import some_seconds
from pymotor.deployer.preparing import Prepared, prepare
from pymotor.deployer.request import DeployRequest
from pymotor.deployer.yaml_files import write_yaml

USER_CONFIG, ENV_CONFIG = "user_config.json", "env.json"
OUTPUT = "output_yamls"

_EPILOG = """\
The namespace of the name job_id holds all of it. The objects are written to output_yamls/ and applied with kubectl;
the last line is "...... all deploy end." when that is true. YAML files in yaml_template/ are merged over them.

  python3 deploy.py --config_dir ../infer_engines/vllm --dry-run              look at the objects
  python3 deploy.py --config_dir ../infer_engines/vllm --wait                 until a request is answered
  python3 deploy.py --config_dir ../infer_engines/vllm --update_instance_num  other instance numbers, nothing else
  python3 deploy.py --config_dir ../infer_engines/vllm --update_config        log levels, timeouts, while it runs

Exit status: 0 done, 1 failed (standard error says why and what to do), 2 wrong usage.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    config = parser.add_argument_group("configuration (a directory, or the files one by one)")
    config.add_argument(
        "--config_dir", "--config-dir", "--dir", type=Path, metavar="DIR", help="directory of both files"
    )
    config.add_argument(
        "--user_config_path", "--user-config-path", "--config", type=Path, metavar="FILE", help="user_config.json"
    )
    config.add_argument("--env_config_path", "--env-config-path", "--env", type=Path, metavar="FILE", help="env.json")
    config.add_argument(
        "--home",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where yaml_template/, startup/ and output_yamls/ are; default: the current directory, and that of"
        " deploy.py",
    )
    steps = parser.add_argument_group("what to do (default: deploy)")
    one = steps.add_mutually_exclusive_group()
    one.add_argument("--dry-run", "--dry_run", action="store_true", help="write the YAML files, touch no cluster")
    one.add_argument("--diff", action="store_true", help="show what would change in the cluster, change nothing")
    one.add_argument(
        "--update_instance_num",
        "--update-instance-num",
        action="store_true",
        help="change the number of instances; instances that go are drained first",
    )
    one.add_argument(
        "--update_config",
        "--update-config",
        action="store_true",
        help="change what may change while the fleet runs",
    )
    steps.add_argument(
        "--recreate",
        action="store_true",
        help="delete workloads whose pods have an old template: an InferServiceSet does not roll it out",
    )
    steps.add_argument(
        "--wait",
        action="store_true",
        help="follow the rollout until a request is answered, an update until all parts run with it",
    )
    steps.add_argument(
        "--timeout", type=some_seconds, default=1800.0, metavar="SECONDS", help="for --wait (default: %(default)g)"
    )
    steps.add_argument(
        "--auto_log_collect", "--auto-log-collect", action="store_true", help="collect the logs of all pods from now on"
    )
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status. Exits with 2 when the command line is wrong."""
    _check_flags(arguments)
    user_path, env_path = config_paths(arguments)
    home: Path = arguments.home
    prepared = prepare(user_path, env_path, home, dry_run=arguments.dry_run)
    _tell(prepared)
    if not prepared.ok:
        print(
            "deploy failed: the configuration has errors, so nothing was applied; mend what is listed above",
            file=sys.stderr,
        )
        return 1
    if arguments.diff or arguments.update_config:
        # The files are those of what was deployed, and neither deploys.
        return _in_cluster(prepared, arguments)
    try:
        paths = write_yaml(prepared.manifests, home / OUTPUT)
    except (OSError, yaml.YAMLError) as error:
        print(f"deploy failed: the YAML files cannot be written: {error}", file=sys.stderr)
        print(f"    to do: check who may write to {home / OUTPUT}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"written: {path}")
    if arguments.dry_run:
        print("...... dry run end: nothing was applied.")
        return 0
    return _in_cluster(prepared, arguments)


def _check_flags(arguments: argparse.Namespace) -> None:
    """A flag that would do nothing is a mistake: whoever waits wants to know."""
    without = {
        "dry_run": ("wait", "recreate", "auto_log_collect"),
        "diff": ("wait", "recreate", "auto_log_collect"),
        "update_config": ("wait", "recreate"),
        "update_instance_num": ("recreate",),
    }
    for step, flags in without.items():
        for flag in flags:
            if getattr(arguments, step) and getattr(arguments, flag):
                words = step.replace("dry_run", "dry-run")
                arguments.usage_error(f"--{flag} has no effect with --{words}; leave one of them out")


def config_paths(arguments: argparse.Namespace) -> tuple[Path, Path | None]:
    """The two files: those of the directory, unless they are named one by one."""
    directory: Path | None = arguments.config_dir
    user: Path | None = arguments.user_config_path
    env: Path | None = arguments.env_config_path
    if directory is not None and (user is not None or env is not None):
        arguments.usage_error("--config_dir already names both files; give it alone")
    if directory is not None:
        beside = directory / ENV_CONFIG
        return directory / USER_CONFIG, beside if beside.exists() else None
    if user is None:
        arguments.usage_error("give --config_dir DIR, or --user_config_path FILE and --env_config_path FILE")
    assert user is not None
    return user, env


def _in_cluster(prepared: Prepared, arguments: argparse.Namespace) -> int:
    # Not imported where no cluster is touched.
    steps = importlib.import_module("pymotor.deployer.steps")
    assert prepared.user is not None
    request = DeployRequest(
        user=prepared.user,
        env=prepared.env,
        namespace=prepared.user.motor_deploy_config.job_id,
        home=arguments.home,
        output=arguments.home / OUTPUT,
        diff=arguments.diff,
        update_instance_num=arguments.update_instance_num,
        update_config=arguments.update_config,
        wait=arguments.wait,
        recreate=arguments.recreate,
        auto_log_collect=arguments.auto_log_collect,
        timeout=arguments.timeout,
    )
    status: int = steps.deploy(prepared.manifests, request)
    return status


def _tell(prepared: Prepared) -> None:
    ordered = sorted(prepared.problems, key=lambda problem: problem.severity != "error")
    for problem in ordered:
        print(problem, file=sys.stderr)
    counts: Counter[str] = Counter(problem.severity for problem in ordered)
    if counts:
        print(", ".join(_number(counts[kind], kind) for kind in ("error", "warning") if counts[kind]), file=sys.stderr)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def main(argv: Sequence[str], home: Path) -> int:
    """`deploy.py`: the same command with the directory of the script as its home."""
    parser = Parser(prog="deploy.py", description="Deploy PyMotor on Kubernetes.")
    configure(parser)
    parser.set_defaults(home=home)
    return in_one_line("deploy.py", lambda: run(parser.parse_args(argv)))
