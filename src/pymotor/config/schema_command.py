"""`pymotor schema`: print the JSON schema of a configuration file."""

from __future__ import annotations

import argparse
import json

from pymotor.config.env import EnvConfig
from pymotor.config.schema import json_schema
from pymotor.config.user import UserConfig

MODELS = {"user_config": UserConfig, "env": EnvConfig}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pymotor schema`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Print the JSON schema (draft 2020-12) of a configuration file, for editors that check and complete.\n\n"
        "  pymotor schema user_config > user_config.schema.json\n"
        "  pymotor schema env > env.schema.json"
    )
    parser.add_argument(
        "file", nargs="?", choices=tuple(MODELS), default="user_config", help="which file (default: user_config)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; returns 0."""
    print(json.dumps(json_schema(MODELS[arguments.file]), indent=2))
    return 0
