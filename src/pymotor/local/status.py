"""`pymotor status`: instances, endpoints, states and load of a local fleet."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from pymotor.config.live import ConfigState
from pymotor.control_plane import TokenError
from pymotor.control_plane.asking import Trust, verb_client
from pymotor.control_plane.tls import TLSError
from pymotor.local.processes import is_alive
from pymotor.local.selection import add_fleet_options, choose_fleet
from pymotor.local.state import FleetDirectory, FleetError, FleetState, state_home

SERVING, NOT_SERVING, NO_FLEET = 0, 1, 3
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class FleetStatus:
    """What is known of a running fleet."""

    state: FleetState
    report: dict[str, Any] | None
    """The Coordinator's `GET /instances`; None when it does not answer."""
    fleet: dict[str, Any] | None
    """The Controller's `GET /fleet`; None when it does not answer or does not lead."""
    sources: dict[str, Any] | None = None
    """The KV Conductor's `GET /sources`; None when there is none or it does not answer."""

    @property
    def serving(self) -> bool:
        """Whether a request sent now is answered."""
        return self.report is not None and bool(self.report.get("ready"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_fleet_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "Exit status: 0 the fleet serves, 1 it runs and does not serve, 3 no fleet runs, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Print the status; returns the exit status."""
    try:
        fleet = choose_fleet(state_home(), arguments.fleet, arguments.port)
        state = fleet.read_state() if fleet is not None else None
    except FleetError as error:
        print(f"pymotor status: {error}", file=sys.stderr)
        return NOT_SERVING
    if fleet is None or state is None or not state.running:
        return _no_fleet(state, arguments.json)
    try:
        certificates = state.management_certificates()
    except TLSError as error:
        print(f"pymotor status: {error}", file=sys.stderr)
        return NOT_SERVING
    status = FleetStatus(
        state,
        _ask(f"{state.management_url}/instances", certificates),
        _ask_with_token(fleet, f"{state.controller_url}/fleet", certificates) if state.controller_url else None,
        _ask_with_token(fleet, f"{state.conductor_url}/sources", certificates) if state.conductor_url else None,
    )
    print(json.dumps(as_json(status), indent=2) if arguments.json else as_text(status))
    return SERVING if status.serving else NOT_SERVING


def as_json(status: FleetStatus) -> dict[str, Any]:
    """The status for programs: state of the fleet, its processes, and what Coordinator and Controller say."""
    state = status.state
    return {
        "name": state.name,
        "phase": state.phase.value,
        "serving": status.serving,
        "url": state.url,
        "management_url": state.management_url,
        "observability_url": state.observability_url,
        "controller_url": state.controller_url,
        "conductor_url": state.conductor_url,
        "models": list(state.models),
        "config": state.config,
        "configuration": msgspec.to_builtins(state.configuration),
        "engine": state.engine,
        "started_at": state.started_at,
        "supervisor": {"pid": state.supervisor.pid},
        "processes": {
            name: {"pid": process.pid, "running": is_alive(process)} for name, process in state.processes.items()
        },
        "coordinator": status.report,
        "controller": status.fleet,
        "conductor": status.sources,
    }


def as_text(status: FleetStatus) -> str:
    """The status for people."""
    state = status.state
    words = "serving" if status.serving else f"not serving ({state.phase.value})"
    lines = [
        f"fleet {state.name}: {words}, {state.url}, model {', '.join(state.models)}",
        f"  up for {_duration(time.time() - state.started_at)} (pid {state.supervisor.pid}), {state.config}",
    ]
    lines += _configuration_lines(state.configuration)
    lines += _control_lines(state, status.fleet)
    lines += _conductor_lines(state, status.sources)
    if status.report is None:
        return "\n".join([*lines, f"  the Coordinator does not answer at {state.management_url}"])
    lines += [f"  missing: {lack}" for lack in status.report.get("missing", [])]
    lines += [f"  degraded: {lack}" for lack in status.report.get("degraded", [])]
    return "\n".join([*lines, *_table(status, status.report)])


def _configuration_lines(configuration: ConfigState | None) -> list[str]:
    """What of the configuration's files is not in force."""
    if configuration is None:
        return []
    lines = []
    if configuration.needs_restart:
        lines.append("  waits for a restart of the fleet (`pymotor validate`, `pymotor down`, then `pymotor up`):")
        lines += [f"    {key}" for key in configuration.needs_restart]
    if configuration.error is not None:
        told = configuration.error.message.splitlines()
        lines.append(f"  refused, {configuration.revision[:12]} stays in force until this is mended:")
        lines += [f"    {line}" for line in told]
    return lines


def _control_lines(state: FleetState, fleet: dict[str, Any] | None) -> list[str]:
    """Controller and NodeManagers."""
    if not state.controller_url:
        return []
    if fleet is None:
        return [f"  the Controller does not answer at {state.controller_url}; requests are served without it"]
    process = state.processes.get("controller")
    pid = f" (pid {process.pid})" if process is not None else ""
    words = "leads" if fleet["complete"] else "begins to lead, listens who is there"
    lines = [f"  controller: {words}, epoch {fleet['epoch']}, {state.controller_url}{pid}"]
    # Of a node that was released and has ended the Controller still knows for a moment.
    nodes = [one for one in fleet["nodes"] if one["name"] in state.processes or not one["released"]]
    serving = sum(bool(node["instance"]) for node in nodes)
    lines.append(f"  nodes: {serving} of {len(nodes)} run an instance")
    lines += [f"    {node['name']}: {words}" for node in nodes if (words := _node_in_words(node))]
    for role in fleet["roles"]:
        if role["target"] is not None and not role["active"] == role["present"] == role["target"]:
            lines.append(f"  {role['role']}: {role['active']} of {role['present']} active, {role['target']} are wanted")
    return lines


def _conductor_lines(state: FleetState, sources: dict[str, Any] | None) -> list[str]:
    """The KV Conductor."""
    if not state.conductor_url:
        return []
    if sources is None:
        return [f"  the KV Conductor does not answer at {state.conductor_url}; requests are served without it"]
    publishers = [source for endpoint in sources["endpoints"] for source in endpoint["sources"]]
    live = sum(source["standing"] == "live" for source in publishers)
    # A conductor of an older version does not tell who asks it.
    alone = ", no Coordinator asks it" if sources.get("coordinator_connections") == 0 else ""
    return [f"  kv conductor: {live} of {len(publishers)} publishers of events are live{alone}, {state.conductor_url}"]


def _node_in_words(node: dict[str, Any]) -> str:
    """What is unusual about it."""
    if node["silent"]:
        return f"silent for {_duration(node['heard_seconds_ago'])}"
    if node["problem"]:
        return str(node["problem"])
    if node["leaving"] or node["released"]:
        return "ends"
    return "" if node["instance"] else "waits for an instance"


def _table(status: FleetStatus, report: dict[str, Any]) -> list[str]:
    state = status.state
    rows = [("INSTANCE", "STATE", "ENDPOINT", "STATE", "IN FLIGHT", "LOAD", "PID")]
    remarks: list[str] = []
    operated = {} if status.fleet is None else {one["name"]: one for one in status.fleet["instances"]}
    for instance in report.get("instances", []):
        name = instance["name"]
        pids = [str(process.pid) for server, process in state.processes.items() if _belongs(server, name)]
        for number, endpoint in enumerate(instance["endpoints"]):
            rows.append(
                (
                    name if number == 0 else "",
                    instance["state"] if number == 0 else "",
                    endpoint["url"],
                    endpoint["state"],
                    str(endpoint["in_flight"]),
                    f"{endpoint['load_tokens']:g}",
                    pids[number] if number < len(pids) else "",
                )
            )
        remark = _operated_in_words(operated.get(name)) or instance.get("fault")
        if remark:
            remarks.append(f"  {name}: {remark}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return lines + remarks


def _operated_in_words(instance: dict[str, Any] | None) -> str:
    """What operators asked of it: it drains, or is cordoned."""
    words = []
    if instance is not None and instance["drain_reason"]:
        waits = f", waits for {instance['drain_waits_for']}" if instance["drain_waits_for"] else ""
        words.append(f"{'drained' if instance['drained'] else 'drains'} ({instance['drain_reason']}){waits}")
    if instance is not None and instance["cordoned"]:
        words.append("cordoned")
    return "; ".join(words)


def _belongs(server: str, instance: str) -> bool:
    return server == instance or server.startswith(f"{instance}-rank-")


def _ask_with_token(fleet: FleetDirectory, url: str, certificates: Trust | None) -> dict[str, Any] | None:
    try:
        return _ask(url, certificates, fleet.read_token().header)
    except (OSError, TokenError):
        return None


def _ask(url: str, certificates: Trust | None, headers: dict[str, str] | None = None) -> dict[str, Any] | None:
    try:
        with verb_client(url, certificates, timeout=_TIMEOUT_SECONDS, headers=headers) as client:
            response = client.get(url)
        answer = response.json()
    except (httpx.HTTPError, ValueError):
        return None
    return answer if response.status_code == 200 and isinstance(answer, dict) else None


def _no_fleet(state: FleetState | None, as_json: bool) -> int:
    if as_json:
        last = None if state is None else {"name": state.name, "phase": state.phase.value, "reason": state.reason}
        print(json.dumps({"serving": False, "last": last}))
    else:
        print("no fleet runs; start one with `pymotor up`")
        if state is not None:
            reason = f": {state.reason}" if state.reason else ""
            print(f"the last one, {state.name}, {_end_in_words(state)}{reason}")
    return NO_FLEET


def _end_in_words(state: FleetState) -> str:
    return state.phase.value if state.phase.value in ("stopped", "failed") else "was killed"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
