"""`pymotor scale`: how many instances of each role there are, and how many there should be."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from pymotor.control_plane.arguments import seconds
from pymotor.fleet import Role
from pymotor.operate.client import ControllerCallError, ControllerClient
from pymotor.operate.target import TargetError, add_controller_options, controller_of

DONE, FAILED, USAGE = 0, 1, 2
_POLL_SECONDS = 0.3
_WITHOUT = {
    Role.ENCODE.value: "media are encoded by the engines behind where they can, and refused where they cannot or "
    "encode_config.fallback is fail",
    Role.PREFILL.value: "requests are answered by union instances, or by decode alone where it can; else they get 503",
    Role.DECODE.value: "requests are answered by union instances, or by prefill alone where it can; else they get 503",
    Role.UNION.value: "requests are answered by prefill and decode instances; without both they get 503",
}
"""What comes of it when a role has nobody."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_controller_options(parser)
    parser.add_argument("--role", choices=[role.value for role in Role], help="with --to; without both: show")
    parser.add_argument("--to", type=int, metavar="N", help="how many instances of the role are wanted")
    parser.add_argument("--force", action="store_true", help="with --to 0: also where the role serves now")
    parser.add_argument("--wait", action="store_true", help="return when so many are active and no more are there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--timeout", type=seconds, default=1800.0, metavar="SECONDS", help="of --wait (%(default)g)")
    parser.epilog = "Exit status: 0 done, 1 refused or failed, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if (arguments.role is None) != (arguments.to is None) or (arguments.wait and arguments.to is None):
        print("pymotor scale: --role and --to go together, and --wait with them", file=sys.stderr)
        return USAGE
    if arguments.to is not None and arguments.to < 0:
        print("pymotor scale: --to is 0 or more", file=sys.stderr)
        return USAGE
    if arguments.force and arguments.to is None:
        print("pymotor scale: --force goes with --role and --to 0", file=sys.stderr)
        return USAGE
    if arguments.force and arguments.to:
        print(f"pymotor scale: --force changes nothing with --to {arguments.to}, only with 0", file=sys.stderr)
    try:
        with ControllerClient(controller_of(arguments)) as client:
            return _scale(client, arguments)
    except (ControllerCallError, TargetError) as error:
        print(f"pymotor scale: {error}", file=sys.stderr)
        return FAILED


def _scale(client: ControllerClient, arguments: argparse.Namespace) -> int:
    if arguments.role is None:
        _show(client.get("/scale")["roles"], arguments.json)
        return DONE
    if arguments.to == 0:
        _warn_of_nobody(client.get("/scale")["roles"], arguments.role, arguments.force)
    roles = client.post("/scale", role=arguments.role, to=arguments.to)["roles"]
    ends = time.monotonic() + arguments.timeout
    said = ""
    while True:
        mine = next(role for role in roles if role["role"] == arguments.role)
        words = in_words(mine)
        if words != said and not arguments.json:
            print(words, flush=True)
        said = words
        finished = mine["active"] == mine["present"] == arguments.to and not mine["ending"]
        if finished or not arguments.wait:
            break
        if time.monotonic() > ends:
            raise ControllerCallError(f"not done after {arguments.timeout:g} s: {words}")
        time.sleep(_POLL_SECONDS)
        roles = client.get("/scale")["roles"]
    if arguments.json:
        _show(roles, True)
    return DONE


def _warn_of_nobody(roles: list[dict[str, Any]], name: str, force: bool) -> None:
    """Raises `ControllerCallError` where instances of the role serve, unless `force`; silent where there are none."""
    mine = next((role for role in roles if role["role"] == name), None)
    kinds = ("active", "present", "out", "ending", "missing_nodes", "waiting_nodes")
    if mine is None or not any(mine[kind] for kind in kinds):
        return  # there is nobody, and nobody is wanted
    active = mine["active"]
    follows = f"with 0 instances {name} serves nothing: {_WITHOUT[name]}"
    if active and not force:
        raise ControllerCallError(f"{follows}. Now {active} serve; nothing was changed. If it is meant, add --force")
    print(f"pymotor scale: warning: {follows}", file=sys.stderr)


def _show(roles: list[dict[str, Any]], as_json: bool) -> None:
    print(json.dumps({"roles": roles}, indent=2) if as_json else "\n".join(map(in_words, roles)) or "no node is there")


def in_words(role: dict[str, Any]) -> str:
    """One role for people."""
    wanted = f", {role['target']} are wanted" if role["target"] is not None else ""
    words = f"{role['role']}: {role['active']} of {role['present']} active{wanted}"
    if role["out"]:
        words += f"; {role['out']} are out"
    if role["ending"]:
        words += f"; {role['ending']} drain or end"
    if role["missing_nodes"]:
        words += f"; {role['missing_nodes']} nodes have to be started"
    return words
