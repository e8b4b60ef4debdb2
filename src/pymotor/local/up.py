"""`pymotor up`: a whole fleet on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from pymotor.local.console import make_console
from pymotor.local.events import Failed
from pymotor.local.request import DEFAULT_PORT, LOOPBACK, UpRequest
from pymotor.local.state import FleetError, state_home

_EPILOG = """\
Starts a Controller, a Coordinator and, for every engine instance the configuration asks for, a NodeManager that
runs it, as in a cluster; waits until the fleet answers, prints its URL and a request to paste, and stays until
Ctrl-C, SIGTERM or `pymotor down`. What ends is started again; `pymotor scale` asks for more or fewer instances.

  pymotor up --config_dir examples/infer_engines/sim/epd              encode, prefill, decode; simulated engines
  pymotor up --config_dir examples/infer_engines/vllm --engine sim    a configuration for Ascend, tried out here
  pymotor up --config_dir examples/infer_engines/vllm/epd_cpu         real vLLM on the CPU

--engine replaces what this machine does not have (accelerator, its connectors, the model) and says what:
  sim       simulated engines: no weights, no vLLM, ready in seconds
  vllm-cpu  real vLLM with a tiny random-weight Qwen3-VL, about 2.2 GB of memory for each instance

Environment: VLLM_PYTHON   the Python that has vLLM (else .venv-vllm here, `vllm` on PATH, this Python)
             PYMOTOR_HOME  where fleets keep state and logs (else ~/.local/state/pymotor)
Exit status: 0 stopped as asked (with --detach: ready), 1 failed and nothing is left running, 2 wrong usage.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    config = parser.add_argument_group("what to run (a directory, or the files one by one)")
    config.add_argument(
        "--config_dir",
        "--config-dir",
        "--dir",
        metavar="DIR",
        help="directory with user_config.json and, if there is one, env.json",
    )
    config.add_argument("--user_config_path", "--user-config-path", metavar="FILE", help="user_config.json")
    config.add_argument("--env_config_path", "--env-config-path", metavar="FILE", help="env.json")
    config.add_argument(
        "--engine", choices=("sim", "vllm-cpu"), help="run it on this machine with this engine, whatever it says"
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="N",
        help="clients' requests on N, management on N+1, metrics on N+2, the Controller on N+3, a KV Conductor on N+4"
        " or, with the default, on its configured port (default: %(default)s)",
    )
    where.add_argument(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help="where the first three of them listen, 0.0.0.0 in a container that others are to reach (default: "
        "%(default)s)",
    )
    where.add_argument("--name", help="what the fleet is called in down, status and logs (default: its port)")
    how = parser.add_argument_group("how")
    how.add_argument("--detach", action="store_true", help="return as soon as the fleet is ready, or has failed")
    how.add_argument(
        "--first-request",
        action="store_true",
        help="send one request when it is ready and show the answer and who made it; a failure counts as failed",
    )
    how.add_argument(
        "--start-timeout",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="how long each process may take to become ready (default: %(default)g)",
    )
    how.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    how.add_argument("--background", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Bring the fleet up; returns the exit status."""
    mistake = _usage_mistake(arguments)
    if mistake:
        print(f"pymotor up: {mistake}", file=sys.stderr)
        return 2
    if arguments.detach:
        from pymotor.local.detach import run_in_background

        console = make_console(sys.stdout, sys.stderr, as_json=arguments.json)
        return run_in_background(_background_words(arguments), console)
    return asyncio.run(_run_session(arguments))


async def _run_session(arguments: argparse.Namespace) -> int:
    from pymotor.local.detach import BackgroundStreams
    from pymotor.local.session import Session

    console = make_console(sys.stdout, sys.stderr, as_json=arguments.json or arguments.background)
    try:
        session = Session(_request(arguments), state_home(), console)
    except FleetError as error:
        console.show(Failed(str(error)))
        return 1
    if arguments.background:
        streams = BackgroundStreams(session.end)
        streams.watch()
        session.on_ready = streams.let_go
    return await session.run()


def _usage_mistake(arguments: argparse.Namespace) -> str:
    """What is wrong with the combination of options, or nothing."""
    if arguments.config_dir is None and arguments.user_config_path is None:
        return "say what to run: --config_dir DIR, or --user_config_path FILE [--env_config_path FILE]"
    if arguments.config_dir is not None and (arguments.user_config_path or arguments.env_config_path):
        return "--config_dir names both files; leave out --user_config_path and --env_config_path"
    if not 1 <= arguments.port <= 65531:
        return f"--port {arguments.port}: a port from 1 to 65531 is needed, for it and the four after it"
    if not 0 < arguments.start_timeout < float("inf"):
        return f"--start-timeout {arguments.start_timeout:g}: seconds, more than 0"
    return ""


def _request(arguments: argparse.Namespace) -> UpRequest:
    user, env = _config_paths(arguments.config_dir, arguments.user_config_path, arguments.env_config_path)
    return UpRequest(
        user_config_path=user,
        env_config_path=env,
        engine=arguments.engine,
        port=arguments.port,
        host=arguments.host,
        name=arguments.name or str(arguments.port),
        start_deadline=arguments.start_timeout,
        first_request=arguments.first_request,
    )


def _config_paths(config_dir: str | None, user: str | None, env: str | None) -> tuple[Path, Path | None]:
    """The two files, absolute; in a directory `env.json` may be missing."""
    if config_dir is not None:
        directory = Path(os.path.abspath(config_dir))
        beside = directory / "env.json"
        return directory / "user_config.json", beside if beside.exists() else None
    assert user is not None
    return Path(os.path.abspath(user)), Path(os.path.abspath(env)) if env else None


def _background_words(arguments: argparse.Namespace) -> list[str]:
    """The same command line for the process that stays."""
    user, env = _config_paths(arguments.config_dir, arguments.user_config_path, arguments.env_config_path)
    words = ["--background", "--user_config_path", str(user)]
    words += ["--env_config_path", str(env)] if env else []
    words += ["--engine", arguments.engine] if arguments.engine else []
    words += ["--host", arguments.host, "--port", str(arguments.port), "--start-timeout", str(arguments.start_timeout)]
    words += ["--name", arguments.name] if arguments.name else []
    words += ["--first-request"] if arguments.first_request else []
    return words
