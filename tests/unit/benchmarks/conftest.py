"""The benchmark's modules are beside the package, not in it: its directory becomes importable here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
