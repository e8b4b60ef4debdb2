"""The rooms are those of docs/architecture.md and know each other as it says (contracts in pyproject.toml), what it
names is there, and verbs exist."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pymotor.cli import VERBS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "pymotor"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACES = (PACKAGE, *(ROOT / name for name in ("benchmarks", "examples", "tests", "tools")))
"""Where its file names begin, or what they leave out."""


def names_in(text: str) -> set[str]:
    """What stands between backticks, but for the column that says how the design has it."""
    before, departures = text.split("## Where this departs from the design")
    kept = [line.split("|", 2)[-1] if line.startswith("|") else line for line in departures.splitlines()]
    return set(re.findall(r"`([^`\n]+)`", "\n".join((before, *kept))))


def test_imports_keep_the_contracts() -> None:
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "0 broken" in checked.stdout


def test_the_rooms_are_those_of_the_table() -> None:
    table = TEXT.split("## Rooms")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    rooms = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(listed) == sorted([*rooms, "cli"])


def test_each_file_that_is_named_exists() -> None:
    files = [f"/{path.relative_to(ROOT)}" for place in PLACES for path in place.rglob("*") if path.is_file()]
    named = {name for name in names_in(TEXT) if re.fullmatch(r"[\w./-]+\.(py|sh)", name)}
    assert "coordinator/api/paths.py" in named
    assert [name for name in sorted(named) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_each_directory_that_is_named_exists() -> None:
    tops = {path.name: place for place in (ROOT, PACKAGE) for path in place.iterdir() if path.is_dir()}
    named = {name for name in names_in(TEXT) if re.fullmatch(r"\w+(/\w+)+/?", name)}
    paths = {name: tops[name.partition("/")[0]] / name for name in named if name.partition("/")[0] in tops}
    assert "controller/faults" in paths
    assert [name for name, path in sorted(paths.items()) if not path.is_dir()] == []


def test_each_dotted_name_can_be_imported() -> None:
    named = {name for name in names_in(TEXT) if re.fullmatch(r"pymotor(\.\w+)+", name)}
    assert "pymotor.cli.VERBS" in named
    for name in sorted(named):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(VERBS[verb].module)
    parser = argparse.ArgumentParser(prog=f"pymotor {verb}")
    module.configure(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help"])
    assert ended.value.code == 0
    assert verb in capsys.readouterr().out
    assert callable(module.run)


def test_help_imports_no_room() -> None:
    code = (
        "import sys\nfrom pymotor.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('pymotor.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.splitlines()[-1] == "['pymotor.cli', 'pymotor.command_output']"
