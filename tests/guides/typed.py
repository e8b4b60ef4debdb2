"""Commands as guides print them: from the data files beside this one, and from the fenced blocks of docs/guides."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent


def typed(guide: str) -> dict[str, str]:
    """The blocks of `<guide>.txt` by name: the lines between `>>> name` and the next such line, to the byte."""
    blocks: dict[str, str] = {}
    name = ""
    for line in (HERE / f"{guide}.txt").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith(">>> "):
            name = line[4:].strip()
            assert name not in blocks, f"two blocks are called {name}"
            blocks[name] = ""
        else:
            blocks[name] += line
    return blocks
