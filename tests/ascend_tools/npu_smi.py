"""A stand-in for `npu-smi`: prints what the driver's tool prints for the nodes of a description (see nodes.py)."""

from __future__ import annotations

import sys

from nodes import FakeNode, answer_told, this_node

WRONG_USAGE = 1


def main(words: list[str]) -> int:
    node = this_node()
    told = answer_told(node, " ".join(["npu-smi", *words]))
    if told is not None:
        return told
    if words == ["info", "-l"]:
        return listing(node)
    if words == ["info", "-m"]:
        return mapping(node)
    if words[:2] == ["info", "-t"] and len(words) > 2:
        options = dict(zip(words[3::2], words[4::2], strict=False))
        card, chip = int(options.get("-i", -1)), int(options.get("-c", 0))
        if card in node.cards and 0 <= chip < node.chips_of_a_card:
            if words[2] == "board":
                return board(node, card, chip)
            if words[2] == "spod-info":
                return super_pod(node, card, chip)
    print("Error parameters! Please use `npu-smi info -h` for help.")
    return WRONG_USAGE


def fields(*pairs: tuple[str, object]) -> None:
    for name, value in pairs:
        print(f"\t{name:<30} : {value}")


def listing(node: FakeNode) -> int:
    cards = [card for card in node.cards if card not in node.content.get("absent_cards", [])]
    fields(("Total Count", node.content.get("total_count", len(cards))))
    for card in cards:
        print()
        fields(("NPU ID", card), ("Product Name", "IT21HMDB01-B2"), ("Serial Number", f"0332040{card:05}"))
        fields(("Chip Count", node.chips_of_a_card))
    return 0


def mapping(node: FakeNode) -> int:
    with_phy_id = node.content.get("phy_id_column", node.generation == "A3")
    heads = ["NPU ID", "Chip ID", "Chip Logic ID", *(["Chip Phy-ID"] if with_phy_id else []), "Chip Name"]
    table: list[list[object]] = [list(heads)]
    logic_id = 0
    gone = {*node.content.get("missing_cards", []), *node.content.get("absent_cards", [])}
    for card in node.cards:
        if card in gone:
            continue
        for chip in range(node.chips_of_a_card):
            device_id = card * node.chips_of_a_card + chip
            table.append([card, chip, logic_id, *([device_id] if with_phy_id else []), node.chip_name])
            logic_id += 1
        table.append([card, node.chips_of_a_card, "-", *(["-"] if with_phy_id else []), "Mcu"])
    for row in table:
        print("\t" + " ".join(f"{value!s:<30}" for value in row))
    return 0


def board(node: FakeNode, card: int, chip: int) -> int:
    fields(("NPU ID", card), ("Chip ID", chip), ("Chip Type", "Ascend"))
    fields(("Chip Name", node.chip_name.removeprefix("Ascend ")), ("Chip Version", "V1"), ("Board ID", "0x30"))
    return 0


def super_pod(node: FakeNode, card: int, chip: int) -> int:
    if node.generation != "A3":
        print("This device does not support querying spod-info.")
        return 255
    device = node.device(card * node.chips_of_a_card + chip)
    for name, key in (
        ("SDID", "super_device_id"),
        ("Super Pod Size", "super_pod_size"),
        ("Super Pod ID", "super_pod_id"),
        ("Server Index", "server_index"),
    ):
        if device[key] is not None:
            fields((name, device[key]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
