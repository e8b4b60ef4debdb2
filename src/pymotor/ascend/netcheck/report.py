"""Findings as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from pymotor.ascend.netcheck.findings import Finding, Verdict

_HEAD = ("NODE", "DEVICE", "STEP", "VERDICT", "SEEN")
_ORDER = (Verdict.FAILED, Verdict.WARNING, Verdict.NOT_CHECKED, Verdict.GOOD)


def exit_status(findings: Sequence[Finding]) -> int:
    """0 when something was checked and nothing failed, else 1."""
    verdicts = {finding.verdict for finding in findings}
    return 1 if Verdict.FAILED in verdicts or not verdicts & {Verdict.GOOD, Verdict.WARNING} else 0


def as_text(findings: Sequence[Finding], *, every_device: bool = False) -> str:
    """A table, what to do below each failure, and a line that sums up.

    Devices of which the same is to be said share a line, and so do good ones; `every_device` gives each its own.
    """
    rows: list[tuple[tuple[str, ...], str]] = []
    for finding, devices, seen in _merged(findings, every_device):
        rows.append(((finding.node, devices, finding.step, finding.verdict.value, seen), finding.advice))
    widths = [max(len(cells[column]) for cells, _ in [(_HEAD, ""), *rows]) for column in range(4)]
    lines = [_line(_HEAD, widths)]
    for cells, advice in rows:
        lines.append(_line(cells, widths))
        if advice:
            lines.append(f"{' ' * (widths[0] + 2)}-> {advice}")
    return "\n".join([*lines, "", summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """How many findings there are of each kind, in one line."""
    counts = Counter(finding.verdict for finding in findings)
    nodes = len({finding.node for finding in findings})
    devices = len({(finding.node, finding.device) for finding in findings if finding.device is not None})
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in _ORDER if counts[verdict]]
    end = "" if exit_status(findings) or not counts[Verdict.NOT_CHECKED] else " (which is not the same as good)"
    return f"{_number(nodes, 'node')}, {_number(devices, 'device')}: {', '.join(parts) or 'nothing checked'}{end}"


def as_json(findings: Sequence[Finding]) -> str:
    """One object: `ok`, `counts` by verdict, `findings` with node, device (null: the whole node), step …"""
    counts = Counter(finding.verdict.value for finding in findings)
    content = {
        "ok": exit_status(findings) == 0,
        "counts": {verdict.value: counts[verdict.value] for verdict in _ORDER},
        "findings": [{**finding._asdict(), "verdict": finding.verdict.value} for finding in findings],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _merged(findings: Sequence[Finding], every_device: bool) -> list[tuple[Finding, str, str]]:
    """A finding that stands for several, their devices, and what was seen."""
    merged = []
    for _, same in groupby(findings, key=lambda finding: (finding.node, finding.step)):
        groups: dict[tuple[object, ...], list[Finding]] = {}
        for finding in same:
            key: tuple[object, ...] = (finding.verdict, finding.device is None)
            if finding.verdict is not Verdict.GOOD or finding.device is None:
                key = (*key, finding.seen, finding.advice)
            if every_device:
                key = (*key, finding.device, finding.seen)
            groups.setdefault(key, []).append(finding)
        for group in groups.values():
            first, last = group[0], group[-1]
            seen = first.seen if len({finding.seen for finding in group}) == 1 else f"{first.seen} … {last.seen}"
            merged.append((first, _ranges([it.device for it in group if it.device is not None]), seen))
    return merged


def _ranges(devices: Sequence[int]) -> str:
    """`0-7,9`; `-` for a node as a whole."""
    parts: list[list[int]] = []
    for device in sorted(set(devices)):
        if parts and parts[-1][-1] == device - 1:
            parts[-1].append(device)
        else:
            parts.append([device])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts) or "-"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, cells[-1]])


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
