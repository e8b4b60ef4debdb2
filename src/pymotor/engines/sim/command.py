"""The verb `pymotor sim-engine`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import sys
from pathlib import Path

from pymotor.engines.sim.ending import hold_signals_back
from pymotor.engines.sim.options import OptionError, add_flags, read_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.usage = "pymotor sim-engine [serve] MODEL [flags of `vllm serve`] [--sim-…]"
    parser.epilog = (
        "Answers are a function of what the engine was really handed: embeddings from the EC store, KV blocks from "
        "another engine. See docs/simulated-engine.md."
    )
    parser.add_argument(
        "--install-shim", type=Path, metavar="DIR", help="write an executable `vllm` into DIR that runs this, and exit"
    )
    add_flags(parser)
    parser.add_argument("vllm_arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    words = arguments.vllm_arguments
    if words[:1] == ["serve"] and words[1:2] in (["--help"], ["-h"]):
        words = ["--help"]
    if arguments.install_shim is not None:
        print(install_shim(arguments.install_shim))
        return 0
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(asctime)s [%(name)s] %(message)s", stream=sys.stderr
    )
    try:
        options = read_options(arguments, words)
    except OptionError as error:
        print(f"pymotor sim-engine: {error}", file=sys.stderr)
        return 2
    hold_signals_back()
    from pymotor.engines.sim.engine import serve

    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    try:
        return asyncio.run(serve(options))
    except OptionError as error:
        print(f"pymotor sim-engine: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pymotor sim-engine: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1


def install_shim(directory: Path) -> Path:
    """Write `DIR/vllm`, which runs `vllm serve …` as `pymotor sim-engine serve …`; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "vllm"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pymotor sim-engine "$@"\n')
    path.chmod(0o755)
    return path
