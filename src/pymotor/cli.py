"""The `pymotor` command: a table of verbs.

Each verb lives in a module of its own room that offers `configure(parser)` and `run(arguments) -> int`.
Only the module of the verb that was typed is imported, so that `pymotor --help` and each process start fast.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from pymotor.command_output import Parser, in_one_line


class Verb(NamedTuple):
    """One verb: the module that implements it and its line in `pymotor --help`."""

    module: str
    summary: str


VERBS: dict[str, Verb] = {
    "up": Verb("pymotor.local.up", "start a whole fleet on this machine and print its URL"),
    "down": Verb("pymotor.local.down", "stop a fleet that `pymotor up` started"),
    "status": Verb("pymotor.local.status", "show instances, endpoints, states and load of a local fleet"),
    "logs": Verb("pymotor.local.logs", "show or follow the logs of a local fleet"),
    "validate": Verb(
        "pymotor.coordinator.validate_command", "check user_config.json and env.json; print every problem"
    ),
    "schema": Verb("pymotor.config.schema_command", "print the JSON schema of user_config.json or env.json"),
    "deploy": Verb("pymotor.deployer.command", "deploy a fleet on Kubernetes, scale it, update its configuration"),
    "coordinator": Verb("pymotor.coordinator.command", "run the gateway: requests in, answers out"),
    "node-manager": Verb("pymotor.node_manager.command", "run one node's engines as the Controller orders"),
    "controller": Verb("pymotor.controller.command", "run the Controller: nodes report in, instances go out"),
    "kv-conductor": Verb("pymotor.kv_conductor.command", "run the index of cached prefixes: who holds which prompt"),
    "instances": Verb("pymotor.operate.instances_command", "show, drain, cordon, restart or remove instances"),
    "scale": Verb("pymotor.operate.scale_command", "ask for another number of instances of a role"),
    "explain": Verb("pymotor.operate.explain_command", "say why a request went to its engines, or where it would go"),
    "events": Verb("pymotor.operate.events_command", "show or follow what happens in the fleet"),
    "config": Verb("pymotor.operate.config_command", "show which configuration a running part has in force"),
    "probe": Verb("pymotor.operate.probe_command", "ask a part how it is, with a certificate: for Kubernetes's probes"),
    "top": Verb("pymotor.operate.top_command", "watch the fleet in the terminal: state, load, KV cache, throughput"),
    "api-key": Verb("pymotor.coordinator.keys.command", "create, list or revoke API keys of a Coordinator"),
    "proxy": Verb("pymotor.coordinator.proxy.command", "run the gateway before engines that flags name"),
    "ranktable": Verb("pymotor.ascend.ranktable_command", "make or check the ranktable that LLMDataDist needs"),
    "sim-engine": Verb(
        "pymotor.engines.sim.command", "run an engine that needs no accelerator and speaks as vLLM does"
    ),
    "ec-store": Verb("pymotor.ec_store.command", "look after the directory in which encoders store embeddings"),
    "netcheck": Verb(
        "pymotor.ascend.netcheck.command", "check the accelerators' network on this node and between nodes"
    ),
    "make-tiny-model": Verb(
        "pymotor.engines.tiny_model", "write a tiny Qwen3-VL with random weights, for tests without an accelerator"
    ),
}

_NAMES_ANYWHERE = ("instances",)
"""Verbs whose second word may follow an option, as in `instances drain --wait decode-0`: argparse before Python 3.13
takes optional words only where they stand together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit status (0 good, 1 failed, 2 wrong usage)."""
    words = list(sys.argv[1:] if argv is None else argv)
    return in_one_line(" ".join(["pymotor", *words[:1]]), lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    """Raises `SystemExit` for wrong usage, and whatever writing to standard output raises."""
    chosen = words[0] if words and words[0] in VERBS else None
    parser = Parser(
        prog="pymotor",
        description="Serve large multimodal models with encode, prefill and decode on separate engines.",
        epilog="`pymotor VERB --help` explains a verb.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, verb in VERBS.items():
        subparser = verbs.add_parser(
            name, help=verb.summary, description=verb.summary[0].upper() + verb.summary[1:] + "."
        )
        if name == chosen:
            importlib.import_module(verb.module).configure(subparser)
    if chosen in _NAMES_ANYWHERE:
        arguments = verbs.choices[chosen].parse_intermixed_args(
            words[1:], argparse.Namespace(verb=chosen, version=False)
        )
    else:
        arguments = parser.parse_args(words)
    if arguments.version:
        from importlib.metadata import version

        print(f"pymotor {version('pymotor')}")
        return 0
    if arguments.verb is None:
        parser.print_help()
        return 2
    status: int = importlib.import_module(VERBS[arguments.verb].module).run(arguments)
    return status
