"""`pymotor ranktable`: make the ranktable that LLMDataDist needs, or say what is wrong with one."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymotor.ascend.ranktable import (
    NodeRecord,
    RanktableError,
    build_ranktable,
    hccl_table,
    left_out,
    ranktable_text,
    same_address,
    write_whole,
)
from pymotor.ascend.ranktable_arguments import DEFAULT_PORT, TOKEN_VARIABLE, add_verbs
from pymotor.ascend.ranktable_check import RanktableProblem, check_ranktable
from pymotor.ascend.ranktable_collect import address_of_card, collect_node, is_local, own_address
from pymotor.ascend.ranktable_exchange import Meeting, exchange
from pymotor.ascend.ranktable_ssh import SshAccess, collect_by_ssh
from pymotor.ascend.tools import ToolRunner, unwound_by_sigterm


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pymotor ranktable`."""
    add_verbs(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it; returns 0, 1 when there is no ranktable or a bad one, 2 for wrong usage or a file that cannot be read."""
    steps = {"generate": _generate, "collect": _collect, "merge": _merge, "check": _check}
    try:
        with unwound_by_sigterm():
            return steps[arguments.step](arguments)
    except RanktableError as error:
        for line in str(error).splitlines():
            _report(f"error: {line}")
        return 1
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2


def _generate(arguments: argparse.Namespace) -> int:
    ips: list[str] = arguments.ips
    if arguments.ssh:
        if arguments.local_host or arguments.port is not None:
            arguments.usage_error("--ssh needs neither --local-host nor --port: this host asks all nodes")
        nodes = _by_ssh(arguments)
    else:
        if arguments.node_device_ids:
            arguments.usage_error("--node-device-ids goes with --ssh; without it give --local-device-ids on each node")
        nodes = _with_the_others(arguments)
    _finish(arguments, nodes)
    if arguments.ssh and len(ips) > 1:
        _report("copy it to the same path on every node")
    return 0


def _by_ssh(arguments: argparse.Namespace) -> list[NodeRecord]:
    device_ids: dict[str, Sequence[int]] = dict(arguments.node_device_ids)
    unknown = sorted(set(device_ids) - set(arguments.ips))
    if unknown:
        arguments.usage_error(f"--node-device-ids names {', '.join(unknown)}, which is not one of --ips")
    if arguments.local_device_ids is not None:
        device_ids = dict.fromkeys(arguments.ips, arguments.local_device_ids) | device_ids
    access = SshAccess(
        arguments.ssh_command,
        arguments.ssh_user,
        arguments.remote_pymotor,
        arguments.timeout,
    )
    _report(f"asking {', '.join(arguments.ips)} by ssh …")
    return collect_by_ssh(arguments.ips, access, device_ids, arguments.npus_per_node)


def _with_the_others(arguments: argparse.Namespace) -> list[NodeRecord]:
    ips: list[str] = arguments.ips
    own_ip = _own_ip(arguments)
    meeting = Meeting(
        ips=tuple(ips),
        own_ip=own_ip,
        port=arguments.port or DEFAULT_PORT,
        token=os.environ.get(TOKEN_VARIABLE, "").encode(),
        job={
            "--ips": ips,
            "--prefill-device-cnt": arguments.prefill_device_cnt,
            "--decode-device-cnt": arguments.decode_device_cnt,
        },
        timeout=arguments.timeout,
    )
    own: NodeRecord | str
    try:
        own = _own_record(arguments, own_ip)
    except RanktableError as error:
        # The others are told, so that they do not wait for a node that has nothing to give.
        own = str(error)
        if len(ips) > 1:
            _report(f"{own}\ntelling the other nodes …")
    return asyncio.run(exchange(meeting, own, _report))


def _own_ip(arguments: argparse.Namespace) -> str:
    ips: list[str] = arguments.ips
    if not arguments.local_host:
        return own_address(ips, arguments.network_card_name, os.environ)
    named = [ip for ip in ips if same_address(ip, arguments.local_host)]
    if not named:
        raise RanktableError(f"--local-host {arguments.local_host} is not one of --ips: {', '.join(ips)}")
    if not is_local(named[0]):
        raise RanktableError(f"--local-host {named[0]} is not an address of this host (see `ip addr`)")
    return named[0]


def _own_record(arguments: argparse.Namespace, own_ip: str) -> NodeRecord:
    runner = ToolRunner.from_environment(os.environ)
    return collect_node(runner, own_ip, arguments.local_device_ids, arguments.npus_per_node)


def _collect(arguments: argparse.Namespace) -> int:
    card: str | None = arguments.network_card_name
    own_ip: str | None = arguments.local_host or (address_of_card(card) if card else None)
    if own_ip is None:
        arguments.usage_error("give this node's address: --local-host IP, or --network-card-name with an address")
    assert own_ip is not None
    record = _own_record(arguments, own_ip)
    text = json.dumps(hccl_table(record) if arguments.hccl else record.as_json(), indent=4)
    if arguments.output == Path("-"):
        print(text)
    else:
        write_whole(arguments.output, text)
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    nodes = [_read_record(path) for path in arguments.files]
    ordered = [_of_node(nodes, ip) for ip in arguments.ips or [node.server_id for node in nodes]]
    _finish(arguments, ordered)
    return 0


def _read_record(path: Path) -> NodeRecord:
    try:
        return NodeRecord.from_json(json.loads(path.read_bytes()))
    except (RanktableError, ValueError, RecursionError) as error:
        raise RanktableError(f"{path}: {error}") from error


def _of_node(nodes: Sequence[NodeRecord], ip: str) -> NodeRecord:
    found = [node for node in nodes if same_address(node.server_id, ip)]
    if len(found) != 1:
        raise RanktableError(f"node {ip}: {'no file' if not found else f'{len(found)} files'} of this node")
    return found[0]


def _finish(arguments: argparse.Namespace, nodes: Sequence[NodeRecord]) -> None:
    """Build, check and write the ranktable."""
    ranktable = build_ranktable(nodes, arguments.prefill_device_cnt, arguments.decode_device_cnt)
    problems = [problem for problem in check_ranktable(ranktable) if problem.severity == "error"]
    if problems:
        raise RanktableError("\n".join(f"node {p.node}, device {p.device}: {p.message}" for p in problems))
    for warning in left_out(nodes, ranktable):
        _report(f"warning: {warning}")
    if arguments.output == Path("-"):
        print(ranktable_text(ranktable))
        return
    write_whole(arguments.output, ranktable_text(ranktable))
    _report(
        f"wrote {arguments.output}: {len(nodes)} nodes, {arguments.prefill_device_cnt} devices prefill, "
        f"{arguments.decode_device_cnt} decode"
    )


def _check(arguments: argparse.Namespace) -> int:
    text = arguments.file.read_bytes()
    content: Any = None
    try:
        content = json.loads(text)
        problems = check_ranktable(content)
    except (ValueError, RecursionError) as error:
        problems = [RanktableProblem("error", "$", f"it is not JSON of a ranktable: {error}")]
    errors = sum(problem.severity == "error" for problem in problems)
    if arguments.json:
        print(json.dumps({"ok": not errors, "problems": [problem.as_json() for problem in problems]}, indent=2))
        return 1 if errors else 0
    for problem in problems:
        print(problem)
    if errors:
        print(f"{arguments.file}: {errors} to mend")
    else:
        counts = {role: len(content[f"{role}_device_list"]) for role in ("prefill", "decode")}
        print(f"{arguments.file}: good; {counts['prefill']} devices prefill, {counts['decode']} decode")
    return 1 if errors else 0


def _report(text: str) -> None:
    """Tell the user; other hosts may have written parts of it, so it is bounded and moves no cursor."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text[:4000])
    print(shown, file=sys.stderr, flush=True)
