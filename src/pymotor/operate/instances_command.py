"""`pymotor instances`: show the instances of a fleet, and drain, cordon, restart, switch or remove them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pymotor.control_plane.arguments import seconds
from pymotor.fleet import Role
from pymotor.operate.client import ControllerCallError, ControllerClient
from pymotor.operate.durations import duration
from pymotor.operate.target import TargetError, add_controller_options, controller_of

DONE, FAILED, USAGE = 0, 1, 2
_POLL_SECONDS = 0.3
_ACTIONS = ("list", "show", "drain", "undrain", "cordon", "uncordon", "restart", "switch-role", "remove")
_DRAINING = ("drain", "restart", "switch-role", "remove")
_FORCED = ("restart", "switch-role", "remove")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="list", help="default: list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the instance, as decode-0; not for list")
    add_controller_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--wait", action="store_true", help="return when it is done, not when it has begun")
    parser.add_argument("--all", action="store_true", help="with restart: one instance after the other")
    parser.add_argument(
        "--force", action="store_true", help="with restart, switch-role, remove: also the last active one of its role"
    )
    parser.add_argument("--to", choices=[role.value for role in Role], help="with switch-role: what its nodes become")
    parser.add_argument("--limit", type=seconds, metavar="SECONDS", help="how long running requests may take")
    parser.add_argument("--reason", default="", help="why, for others to read")
    parser.add_argument("--timeout", type=seconds, default=1800.0, metavar="SECONDS", help="of --wait (%(default)g)")
    parser.epilog = "Exit status: 0 done, 1 refused or failed, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    wrong = _wrong_usage(arguments)
    if wrong:
        print(f"pymotor instances: {wrong}", file=sys.stderr)
        return USAGE
    try:
        with ControllerClient(controller_of(arguments)) as client:
            return _act(client, arguments)
    except (ControllerCallError, TargetError) as error:
        print(f"pymotor instances: {error}", file=sys.stderr)
        return FAILED


def _wrong_usage(arguments: argparse.Namespace) -> str:
    if arguments.all:
        if arguments.action != "restart":
            return "--all goes with restart"
        return "--all and a name contradict each other" if arguments.name else ""
    if (arguments.to is not None) != (arguments.action == "switch-role"):
        return "switch-role and --to go together"
    if arguments.action == "list":
        return "list takes no name; `show NAME` shows one" if arguments.name else ""
    return "" if arguments.name else f"{arguments.action} needs the name of an instance"


def _act(client: ControllerClient, arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        fleet = client.get("/instances")
        print(json.dumps(fleet, indent=2) if arguments.json else as_table(fleet["instances"]))
        return DONE
    if arguments.action == "show":
        instance = client.get(_path(arguments.name))
        print(json.dumps(instance, indent=2) if arguments.json else as_text(instance))
        return DONE
    names = [arguments.name]
    if arguments.all:
        names = [instance["name"] for instance in client.get("/instances")["instances"]]
    instances = []
    for number, name in enumerate(names, 1):
        if arguments.all and not arguments.json:
            print(f"{number} of {len(names)}: {name}", flush=True)
        instances.append(_ask(client, arguments, name))
    if arguments.json:
        print(json.dumps({"instances": instances} if arguments.all else instances[0], indent=2))
    return DONE


def _path(name: str) -> str:
    return f"/instances/{quote(name, safe='')}"


def _ask(client: ControllerClient, arguments: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """Ask for the action, and wait for its end where that was asked for; the instance as it is then."""
    path, action = _path(name), arguments.action
    before = client.get(path)
    if action in _DRAINING:
        body: dict[str, Any] = {"limit_seconds": arguments.limit, "reason": arguments.reason}
        if action in _FORCED:
            body["force"] = arguments.force
        if action == "switch-role":
            client.post(f"{path}/role", role=arguments.to, **body)
        else:
            client.post(f"{path}/{action}", **body)
    elif action == "cordon":
        client.post(f"{path}/{action}", reason=arguments.reason)
    else:
        client.post(f"{path}/{action}")

    def tell(instance: dict[str, Any]) -> None:
        waits = f" (waits for {instance['drain_waits_for']})" if instance["drain_waits_for"] else ""
        fault = f": {instance['fault']}" if instance["fault"] else ""
        if not arguments.json:
            print(f"  {instance['name']} {instance['state']}{fault}{waits}", flush=True)

    def look() -> dict[str, Any] | None:
        return _present(client.get("/instances")["instances"], before, arguments.to)

    if arguments.wait or arguments.all:
        return _wait(name, look, _end_of(action, before), tell, arguments)
    instance = look()
    if instance is not None:
        tell(instance)
    return instance


def _present(instances: list[dict[str, Any]], before: dict[str, Any], to: str | None) -> dict[str, Any] | None:
    """The instance as it is now; where its role is switched, the one that its nodes have become."""
    for one in instances:
        if one["name"] == before["name"] or (
            one["role"] == to and set(one["nodes"]) & set(filter(None, before["nodes"]))
        ):
            return one
    return None


def _end_of(action: str, before: dict[str, Any]) -> Callable[[dict[str, Any] | None], bool]:
    """When the action is done, by what the instance is; None: it is no more."""

    def done(instance: dict[str, Any] | None) -> bool:
        if instance is None:
            return action == "remove"
        if action == "switch-role":
            return bool(instance["name"] != before["name"] and instance["state"] == "active")
        if action == "drain":
            return bool(instance["drained"])
        if action == "cordon":
            return bool(instance["cordoned"])
        if action == "restart":
            return instance["generation"] > before["generation"] and _stands(instance)
        return action in ("undrain", "uncordon") and _stands(instance)

    return done


def _stands(instance: dict[str, Any]) -> bool:
    """Whether it is all that it can be without somebody's doing: active, or ready behind a cordon."""
    if instance["state"] == "active":
        return True
    states = {endpoint["state"] for endpoint in instance["endpoints"]}
    return bool(instance["cordoned"] and instance["state"] == "inactive" and states == {"ready"})


def _wait(
    name: str,
    look: Callable[[], dict[str, Any] | None],
    done: Callable[[dict[str, Any] | None], bool],
    tell: Callable[[dict[str, Any]], None],
    arguments: argparse.Namespace,
) -> dict[str, Any] | None:
    ends = time.monotonic() + arguments.timeout
    said: object = None
    while True:
        instance = look()
        if instance is not None and said != (
            said := (instance["state"], instance["fault"], instance["drain_waits_for"])
        ):
            tell(instance)
        if done(instance):
            return instance
        if instance is None and arguments.action != "switch-role":
            raise ControllerCallError(f"{name} is gone")
        if time.monotonic() > ends:
            state = instance["state"] if instance is not None else "its nodes have no instance yet"
            raise ControllerCallError(f"{name} is not done after {arguments.timeout:g} s: {state}")
        time.sleep(_POLL_SECONDS)


def as_table(instances: list[dict[str, Any]]) -> str:
    """All instances for people."""
    if not instances:
        return "no instance is there"
    rows = [("INSTANCE", "STATE", "FOR", "GENERATION", "NODES", "ENDPOINTS", "WHY"), *map(_row, instances)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(instance: dict[str, Any]) -> tuple[str, ...]:
    return (
        instance["name"],
        instance["state"],
        duration(time.time() - instance["since"]),
        str(instance["generation"]),
        ",".join(node or "-" for node in instance["nodes"]),
        str(len(instance["endpoints"])),
        instance["fault"],
    )


def as_text(instance: dict[str, Any]) -> str:
    """One instance for people."""
    lines = [f"{instance['name']}: {instance['state']} for {duration(time.time() - instance['since'])}"]
    facts = {key: instance[key] for key in ("fault", "job", "generation", "separated")}
    facts |= {key: instance[key] for key in ("drain_reason", "drain_waits_for")}
    lists = ("models", "nodes", "machines", "device_ids")
    facts |= {key: ", ".join(word or "-" for word in instance[key]) for key in lists}
    lines += [f"  {key.replace('_', ' ')}: {value}" for key, value in facts.items() if value]
    lines += [f"  {endpoint['id']}  {endpoint['url']}  {endpoint['state']}" for endpoint in instance["endpoints"]]
    return "\n".join(lines)
