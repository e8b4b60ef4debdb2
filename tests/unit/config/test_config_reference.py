"""The page of all keys is what the models say."""

from __future__ import annotations

import re
from pathlib import Path

from configs import load

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.reference import markdown

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_of_keys_is_current():
    page = (DOCS / "configuration_keys.md").read_text(encoding="utf-8")
    for model, words in ((UserConfig, ""), (EnvConfig, " env")):
        assert markdown(model).strip() in page, f"paste `pymotor schema{words} --format markdown` into the page again"


def test_the_smallest_file_of_the_guides_is_right(tmp_path):
    for page in ("configuration.md", "zh/configuration.md"):
        block = re.search(r"```json\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
        assert block is not None
        assert load(tmp_path, block[1]).problems == ()


def test_keys_without_effect_say_what_to_write():
    tables = markdown(UserConfig)
    assert (
        "| `tls_enable` | anything |  | **No effect**: the switch is called enable_tls. Write `enable_tls`. |" in tables
    )
    assert "| `prefill_threshold` | an integer, 0 or more | `512` |" in tables
