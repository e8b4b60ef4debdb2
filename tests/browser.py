"""Debian's Chromium, driven by Playwright. Tests that need it are skipped loudly where there is none, and fail with
`PYMOTOR_REQUIRE_BROWSER=1`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def browser_path() -> str:
    """The browser's program. Skips the test where there is none, or fails it."""
    named = os.environ.get("PYMOTOR_BROWSER")
    found = named or next((path for path in map(shutil.which, NAMES) if path), None)
    if found is not None:
        return found
    lack = "there is no Chromium; tools/install_browser.sh installs it, or PYMOTOR_BROWSER names another"
    if os.environ.get("PYMOTOR_REQUIRE_BROWSER") == "1":
        pytest.fail(lack)
    pytest.skip(f"THE DASHBOARD'S PAGE IS NOT TESTED: {lack}")


@contextlib.contextmanager
def browser(
    directory: Path, *, width: int = 1280, height: int = 800, scheme: str = "light"
) -> Iterator[BrowserContext]:
    """A headless browser with a profile of its own, in a window of this size in pixels."""
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            directory,
            executable_path=path,
            headless=True,
            args=list(_ARGUMENTS),
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        try:
            yield context
        finally:
            context.close()
