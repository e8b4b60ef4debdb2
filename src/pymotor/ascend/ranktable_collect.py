"""What this node adds to a ranktable: which of its devices, and by which addresses they are reached."""

from __future__ import annotations

import array
import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Mapping, Sequence

from pymotor.ascend.devices import Device, Generation, Run, device_ip, generation_of, list_devices, super_pod
from pymotor.ascend.ranktable import NodeDevice, NodeRecord, RanktableError, same_address
from pymotor.ascend.tools import AscendToolError

SIOCGIFADDR = 0x8915
OWN_ADDRESS_VARIABLES = ("VLLM_HOST_IP", "HCCL_IF_IP")
"""Where vLLM and HCCL are told this node's address; the connector looks for it in the ranktable."""


def collect_node(
    run: Run, server_id: str, device_ids: Sequence[int] | None = None, devices_per_node: int | None = None
) -> NodeRecord:
    """The record of this node: the devices named by `device_ids`, else its first `devices_per_node`, else all.

    Raises:
        RanktableError: a device is not there, named twice, too few or without an address; every such device at once.
    """
    try:
        devices = list_devices(run)
        generation = generation_of(devices, run)
    except AscendToolError as error:
        raise RanktableError(f"node {server_id}: {error}") from error
    chosen = _chosen(server_id, devices, device_ids, devices_per_node)
    read, problems = [], []
    for device in chosen:
        try:
            read.append(_read(run, device, generation))
        except AscendToolError as error:  # noqa: PERF203 - tools take far longer
            problems.append(f"node {server_id}: {error}")
    if problems:
        raise RanktableError("\n".join(problems))
    return NodeRecord(server_id, generation, tuple(read))


def own_address(ips: Sequence[str], network_card: str | None, environment: Mapping[str, str]) -> str:
    """Which of `ips` is this host's: as VLLM_HOST_IP or HCCL_IF_IP say, else the network card, else the only one.

    Raises:
        RanktableError: none of them is an address of this host, or it cannot be told which is meant.
    """
    local = [ip for ip in ips if is_local(ip)]
    if not local:
        raise RanktableError(f"none of --ips is an address of this host: {', '.join(ips)} (see `ip addr`)")
    card_address = address_of_card(network_card) if network_card else None
    hints = [*(environment.get(variable, "") for variable in OWN_ADDRESS_VARIABLES), card_address or ""]
    for hint in hints:
        with contextlib.suppress(ValueError):
            named = [ip for ip in local if same_address(ip, hint)]
            if named:
                return named[0]
    if len(local) > 1:
        raise RanktableError(f"{' and '.join(local)} are all addresses of this host: say which with --local-host")
    return local[0]


def is_local(ip: str) -> bool:
    """Whether an address belongs to this host."""
    family = socket.AF_INET6 if ipaddress.ip_address(ip).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def address_of_card(name: str) -> str | None:
    """The first IPv4 address of a network card; None where it has none or does not exist."""
    request = array.array("b", struct.pack("256s", name.encode()[:15]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
        except OSError:
            return None
    # struct ifreq: 16 bytes of name, then sockaddr_in with the address after family and port.
    return socket.inet_ntoa(request.tobytes()[20:24])


def _chosen(
    server_id: str, devices: Sequence[Device], device_ids: Sequence[int] | None, devices_per_node: int | None
) -> list[Device]:
    by_id = {device.device_id: device for device in devices}
    found = f"it has {', '.join(map(str, sorted(by_id)))}"
    if device_ids is None:
        count = len(devices) if devices_per_node is None else devices_per_node
        if count > len(devices):
            raise RanktableError(
                f"node {server_id}: --npus-per-node asks for {count} devices but {found} ({len(devices)} devices)"
            )
        return list(devices[:count])
    doubled = sorted(device_id for device_id, count in Counter(device_ids).items() if count > 1)
    missing = [device_id for device_id in dict.fromkeys(device_ids) if device_id not in by_id]
    problems = [f"node {server_id}: device {device_id} is named twice in --local-device-ids" for device_id in doubled]
    problems += [f"node {server_id}: there is no device {device_id}; {found}" for device_id in missing]
    if devices_per_node is not None and len(device_ids) != devices_per_node:
        problems.append(
            f"node {server_id}: --npus-per-node says {devices_per_node} but --local-device-ids names "
            f"{len(device_ids)}: {', '.join(map(str, device_ids))}"
        )
    if problems:
        raise RanktableError("\n".join(problems))
    return [by_id[device_id] for device_id in device_ids]


def _read(run: Run, device: Device, generation: Generation) -> NodeDevice:
    address = device_ip(run, device.device_id, generation)
    if generation == "A2":
        return NodeDevice(device.device_id, address)
    pod = super_pod(run, device)
    return NodeDevice(device.device_id, address, pod.super_pod_id, pod.super_device_id)
