"""The rooms know each other as docs/architecture.md says (contracts in pyproject.toml), and verbs exist."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pymotor.cli import VERBS

ROOT = Path(__file__).parents[2]


def test_imports_keep_the_contracts() -> None:
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "0 broken" in checked.stdout


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
        "print([name for name in sys.modules if name.startswith('pymotor.') and name != 'pymotor.cli'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.splitlines()[-1] == "[]"
