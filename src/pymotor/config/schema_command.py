"""`pymotor schema`: what may stand in a configuration file, for editors and for people."""

from __future__ import annotations

import argparse
import json

from pydantic import BaseModel

from pymotor.config.env import EnvConfig
from pymotor.config.reference import markdown
from pymotor.config.schema import json_schema
from pymotor.config.user import UserConfig

MODELS: dict[str, type[BaseModel]] = {"user_config": UserConfig, "env": EnvConfig}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pymotor schema`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Print what may stand in a configuration file.\n\n"
        "  pymotor schema > user_config.schema.json     for an editor that checks and completes:\n"
        '                                               write "$schema": "./user_config.schema.json"\n'
        "                                               as the first key of user_config.json\n"
        "  pymotor schema env > env.schema.json         the same for env.json\n"
        "  pymotor schema --format markdown             all keys as tables, to read"
    )
    parser.add_argument(
        "file", nargs="?", choices=tuple(MODELS), default="user_config", help="which file (default: user_config)"
    )
    parser.add_argument(
        "--format",
        choices=("json", "markdown"),
        default="json",
        help="a JSON schema, draft 2020-12 (default), or tables of all keys",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it; returns 0."""
    model = MODELS[arguments.file]
    if arguments.format == "markdown":
        print(markdown(model))
    else:
        print(json.dumps(json_schema(model), indent=2))
    return 0
