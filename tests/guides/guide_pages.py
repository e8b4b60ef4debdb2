"""The commands of docs/guides: fenced blocks of shell, each with a comment before it that says how to run it.

    <!-- node: 192.0.0.1 192.0.0.2 -->     on these nodes, at the same time; otherwise on a machine with loopback
    <!-- until: http://… -->               it keeps running; the next block comes when this URL answers 200
    <!-- meanwhile -->                     the next block comes at once; it has to end well before the section does
    <!-- prints: text -->                  its standard output has this
    <!-- tested by: tests/… -->            another test runs it

Several are joined by semicolons. Each section (`## …`) begins on a fresh machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from private_machine import CHECKOUT

GUIDES = CHECKOUT / "docs" / "guides"
_PIECE = re.compile(
    r"^## (?P<section>[^\n]+)$|^(?:<!-- (?P<marks>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_MARKS = {"node", "until", "meanwhile", "prints", "tested by"}


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    text: str
    marks: dict[str, str]

    @property
    def nodes(self) -> list[str]:
        return self.marks.get("node", "").split()


def sections(page: Path) -> list[tuple[str, list[Block]]]:
    """The shell blocks of a page that this test runs, by section; sections without any are left out."""
    found: list[tuple[str, list[Block]]] = [("", [])]
    for piece in _PIECE.finditer(page.read_text(encoding="utf-8")):
        if piece["section"] is not None:
            found.append((piece["section"], []))
        elif piece["language"] == "shell":
            marks = dict(_mark(mark) for mark in (piece["marks"] or "").split("; ") if mark)
            assert marks.keys() <= _MARKS, f"{page}: {marks}"
            if "tested by" in marks:
                assert (CHECKOUT / marks["tested by"]).exists(), marks
            else:
                found[-1][1].append(Block(piece["text"], marks))
        else:
            assert piece["language"] == "text", (
                f"{page}: a block is neither shell, which is run, nor text:\n{piece['text']}"
            )
    return [(section, blocks) for section, blocks in found if blocks]


def fences(page: Path) -> list[str]:
    """All blocks of a page with their marks, as they stand there."""
    return re.findall(r"^(?:<!-- [^\n]+ -->\n)?```.*?^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def _mark(text: str) -> tuple[str, str]:
    name, _, value = text.partition(": ")
    return name, value
