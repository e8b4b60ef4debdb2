"""What an Ascend node says of its devices: `npu-smi` and `hccn_tool`, run without a shell and read with care.

    run = ToolRunner.from_environment(os.environ)
    devices = list_devices(run)                  # by device id; Device(device_id=9, card_id=4, chip_id=1, …)
    generation = generation_of(devices, run)     # "A2" or "A3"
    device_ip(run, 9, generation)                # "29.1.0.19"; A3: the address of the vnic
    super_pod(run, devices[9])                   # A3: SuperPod(super_device_id="…", super_pod_id="0")

Everything takes a `Run`, any callable from a command line to its output, so the same reading serves a tool that
runs elsewhere. Whatever cannot be read raises `AscendToolError`, which names the command and the device.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pymotor.ascend.tools import AscendToolError, ToolOutput

Run = Callable[[Sequence[str]], ToolOutput]
Generation = Literal["A2", "A3"]

_FIELD = re.compile(r"^\s*([^:\n]+?)\s*:\s*(.*?)\s*$", re.MULTILINE)
_IP_ADDRESS = re.compile(r"^\s*ipaddr\s*:\s*(\S+)", re.MULTILINE | re.IGNORECASE)
_VNIC_ADDRESS = re.compile(r"^\s*vnic ipaddr\s*:\s*(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Device:
    """One die that computes.

    `device_id` is the physical number that `hccn_tool -i`, /dev/davinci and ASCEND_RT_VISIBLE_DEVICES count in;
    `card_id` and `chip_id` are what `npu-smi -i` and `-c` take (A3: two dies on a card).
    """

    device_id: int
    card_id: int
    chip_id: int
    chip_name: str


@dataclass(frozen=True)
class SuperPod:
    """Where a device of an A3 stands in its super pod, as `npu-smi info -t spod-info` says, in decimal."""

    super_device_id: str
    super_pod_id: str


def list_devices(run: Run) -> tuple[Device, ...]:
    """All devices of a node, in the order of their ids, by `npu-smi info -l` and `-m` (`-t board` on old drivers).

    Raises:
        AscendToolError: a tool failed, a card shows no die that computes, or two dies have one id.
    """
    cards = _cards(run)
    mapping = run(["npu-smi", "info", "-m"])
    devices = _mapped(mapping) if mapping.status == 0 else []
    if not devices:
        devices = _numbered(run, cards)
    for card_id in cards:
        if all(device.card_id != card_id for device in devices):
            raise AscendToolError(
                f"card {card_id} is listed by `npu-smi info -l` but has no chip in `npu-smi info -m`: "
                "look at `npu-smi info`, the card may have failed or belong to another container"
            )
    for device_id, count in Counter(device.device_id for device in devices).items():
        if count > 1:
            raise AscendToolError(f"device {device_id} appears {count} times in `npu-smi info -m`")
    return tuple(sorted(devices, key=lambda device: device.device_id))


def generation_of(devices: Sequence[Device], run: Run) -> Generation:
    """A2 or A3. 910B is A2; two dies on a card is A3; of anything else, an A3 is what knows its super pod."""
    if any("910B" in device.chip_name.upper() for device in devices):
        return "A2"
    if max(Counter(device.card_id for device in devices).values(), default=1) > 1:
        return "A3"
    if not devices:
        raise AscendToolError("`npu-smi` lists no device")
    answer = run(_super_pod_question(devices[0]))
    return "A3" if answer.status == 0 and "SDID" in _fields(answer.text) else "A2"


def device_ip(run: Run, device_id: int, generation: Generation) -> str:
    """The address by which other devices reach this one (A2: `hccn_tool -ip`, A3: `-vnic`); IPv4 or IPv6.

    Raises:
        AscendToolError: the tool failed, or the device has no usable address.
    """
    argument = "-ip" if generation == "A2" else "-vnic"
    answer = run(["hccn_tool", "-i", str(device_id), argument, "-g"])
    address = ip_address_in(answer.text) if generation == "A2" else vnic_address_in(answer.text)
    if answer.status == 0 and address is not None:
        return address
    raise AscendToolError(f"device {device_id} has no address: {answer.explained()}; set one in /etc/hccn.conf")


def ip_address_in(text: str) -> str | None:
    """The address in the output of `hccn_tool -ip -g`; None where there is none."""
    return _address(_IP_ADDRESS, text)


def vnic_address_in(text: str) -> str | None:
    """The address in the output of `hccn_tool -vnic -g`; None where there is none."""
    return _address(_VNIC_ADDRESS, text)


def super_pod(run: Run, device: Device) -> SuperPod:
    """Super device id (SDID) and super pod id of a device of an A3.

    Raises:
        AscendToolError: the tool failed, or one of the two is not a number.
    """
    answer = run(_super_pod_question(device))
    fields = _fields(answer.text)
    sdid, pod = fields.get("SDID", ""), fields.get("Super Pod ID", "")
    if answer.status == 0 and sdid.isdecimal() and pod.isdecimal():
        return SuperPod(super_device_id=sdid, super_pod_id=pod)
    raise AscendToolError(f"device {device.device_id} has no SDID or super pod id: {answer.explained()}")


def _super_pod_question(device: Device) -> list[str]:
    return ["npu-smi", "info", "-t", "spod-info", "-i", str(device.card_id), "-c", str(device.chip_id)]


def _fields(text: str) -> dict[str, str]:
    return dict(_FIELD.findall(text))


def _cards(run: Run) -> dict[int, int]:
    """Number of chips of each card, by `npu-smi info -l`."""
    answer = run(["npu-smi", "info", "-l"])
    cards: dict[int, int] = {}
    total = card_id = None
    for name, value in _FIELD.findall(answer.text):
        if not value.isdecimal():
            continue
        if name == "Total Count":
            total = int(value)
        elif name == "NPU ID":
            card_id = int(value)
            cards[card_id] = 1
        elif name == "Chip Count" and card_id is not None:
            cards[card_id] = int(value)
    if answer.status != 0 or not cards:
        raise AscendToolError(f"no devices found: {answer.explained()}")
    if total is not None and total != len(cards):
        listed = ", ".join(map(str, sorted(cards)))
        raise AscendToolError(f"`npu-smi info -l` counts {total} cards but lists {len(cards)}: {listed}")
    return cards


def _mapped(answer: ToolOutput) -> list[Device]:
    """Rows of `npu-smi info -m`: card, chip, logic id (an MCU has none), on newer drivers the physical id, name."""
    lines = [line.split() for line in answer.text.splitlines() if line.strip()]
    heads = next((number for number, words in enumerate(lines) if words[:2] == ["NPU", "ID"]), None)
    if heads is None:
        return []
    with_physical_id = "Phy-ID" in lines[heads]
    ids = 4 if with_physical_id else 3
    rows = [
        ([int(word) for word in words[:ids]], " ".join(words[ids:]))
        for words in lines[heads + 1 :]
        if len(words) > ids and all(word.isdecimal() for word in words[:ids])
    ]
    chips = Counter(numbers[0] for numbers, _ in rows)
    devices = []
    for numbers, name in rows:
        card_id, chip_id = numbers[:2]
        # Without the column the physical id follows from the card: the logic id only counts what a container sees.
        device_id = numbers[3] if with_physical_id else card_id * chips[card_id] + chip_id
        devices.append(Device(device_id, card_id, chip_id, name))
    return devices


def _numbered(run: Run, cards: dict[int, int]) -> list[Device]:
    """Devices of a driver that has no `npu-smi info -m`: as many on each card as `-l` says, named by `-t board`."""
    devices = []
    for card_id, chips in cards.items():
        for chip_id in range(chips):
            board = run(["npu-smi", "info", "-t", "board", "-i", str(card_id), "-c", str(chip_id)])
            if board.status != 0:
                raise AscendToolError(f"card {card_id}, chip {chip_id} does not answer: {board.explained()}")
            name = _fields(board.text).get("Chip Name", "")
            devices.append(Device(card_id * chips + chip_id, card_id, chip_id, name))
    return devices


def _address(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    if found is None:
        return None
    try:
        address = ipaddress.ip_address(found.group(1))
    except ValueError:
        return None
    return None if address.is_unspecified else str(address)
