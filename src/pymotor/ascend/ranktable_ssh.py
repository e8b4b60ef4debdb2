"""One command for all nodes: run `pymotor ranktable collect` on each by ssh."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pymotor.ascend.ranktable import NodeRecord, RanktableError, same_address

AT_ONCE = 16


@dataclass(frozen=True)
class SshAccess:
    """How nodes are reached: `ssh` with its options as an argument list, the user, and `pymotor` as it is called there.

    `timeout` is in seconds for each node.
    """

    ssh: tuple[str, ...] = ("ssh",)
    user: str = ""
    pymotor: tuple[str, ...] = ("pymotor",)
    timeout: float = 120.0


def collect_by_ssh(
    ips: Sequence[str], access: SshAccess, device_ids: Mapping[str, Sequence[int]], devices_per_node: int | None
) -> list[NodeRecord]:
    """All nodes' records, in the order of the ips; up to sixteen nodes are asked at once.

    Raises:
        RanktableError: a line for each node that cannot be reached or lacks a device.
    """

    def asked(ip: str) -> NodeRecord | str:
        try:
            return _collect(ip, access, device_ids.get(ip), devices_per_node)
        except RanktableError as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(ips))) as pool:
        answers = list(pool.map(asked, ips))
    failures = [answer for answer in answers if isinstance(answer, str)]
    if failures:
        raise RanktableError("\n".join(failures))
    return [answer for answer in answers if isinstance(answer, NodeRecord)]


def _collect(ip: str, access: SshAccess, device_ids: Sequence[int] | None, devices_per_node: int | None) -> NodeRecord:
    remote = [*access.pymotor, "ranktable", "collect", "--local-host", ip, "--output", "-"]
    if device_ids is not None:
        remote += ["--local-device-ids", ",".join(map(str, device_ids))]
    if devices_per_node is not None:
        remote += ["--npus-per-node", str(devices_per_node)]
    host = f"{access.user}@{ip}" if access.user else ip
    # ssh hands one string to the shell of the other side, so it is quoted for it here.
    argv = [*access.ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--", host, shlex.join(remote)]
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=access.timeout, check=False)
    except OSError as error:
        raise RanktableError(f"node {ip}: cannot run {access.ssh[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise RanktableError(f"node {ip}: no answer by ssh within {access.timeout:g} s") from error
    if ended.returncode != 0:
        raise RanktableError(_failure(ip, shlex.join(argv), ended))
    try:
        record = NodeRecord.from_json(json.loads(ended.stdout))
    except (ValueError, RecursionError, RanktableError) as error:
        raise RanktableError(f"node {ip}: `{shlex.join(argv)}` printed no record of a node: {error}") from error
    if not same_address(record.server_id, ip):
        raise RanktableError(f"node {ip} answers with the devices of {record.server_id}")
    return record


def _failure(ip: str, command: str, ended: subprocess.CompletedProcess[bytes]) -> str:
    """What the node said is wrong, where it is our own command that says so; else what ssh or its shell said."""
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    own = [line.removeprefix("error: ") for line in lines if line.startswith(f"error: node {ip}")]
    if own:
        return "\n".join(own)
    return f"node {ip}: `{command}` ended with {ended.returncode}: {' '.join(lines[-3:])[:400]}"
