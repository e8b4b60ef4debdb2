"""The files of the dashboard's page: they hold no data, so anybody who reaches the port may have them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE_PATH = "/dashboard"
FILES_PATH = "/dashboard/page"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of each file."""


class PageFile(NamedTuple):
    """One file as it is sent."""

    body: bytes
    kind: str


def page_files() -> dict[str, PageFile]:
    """Every file of the page by the path that it is asked for. Raises `OSError` when they cannot be read."""
    found = {}
    for file in sorted((Path(__file__).parent / "page").iterdir()):
        kind = _KINDS.get(file.suffix)
        if kind is not None:
            path = PAGE_PATH if file.name == "index.html" else f"{FILES_PATH}/{file.name}"
            found[path] = PageFile(file.read_bytes(), kind)
    return found
