"""How smooth the dashboard is with many instances: frame times in headless Chromium, at three sizes of the window.

    python benchmarks/dashboard_frames.py [--instances 500] [--seconds 10]

The page is fed by `played_board`: every instance changes at every look. Frame times are what lies between two calls of
`requestAnimationFrame`, in milliseconds; long tasks are those of more than 50 ms, as the browser reports them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from played_board import PlayedBoard, PlayedFleet
from playwright.sync_api import Browser, CDPSession, sync_playwright

RESULTS = Path(__file__).parent / "results" / "dashboard"
SIZES = ((360, 740), (1280, 800), (1920, 1080))
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SETTLING = 3.0
"""Seconds that a page has before it is measured."""
_MEASURE = """
milliseconds => new Promise(done => {
  const frames = [], tasks = [];
  new PerformanceObserver(list => tasks.push(...list.getEntries().map(one => one.duration)))
    .observe({type: "longtask"});
  const end = performance.now() + milliseconds;
  let before = performance.now();
  const step = now => {
    frames.push(now - before);
    before = now;
    if (now < end) requestAnimationFrame(step); else done({frames: frames.slice(1), tasks});
  };
  requestAnimationFrame(step);
})
"""


def main() -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[3, 500])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each size of the window")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="its program")
    arguments = parser.parse_args()
    if arguments.browser is None:
        parser.error("there is no Chromium; tools/install_browser.sh installs it")
    rows: list[dict[str, Any]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=list(ARGUMENTS))
        for instances in arguments.instances:
            with PlayedBoard(PlayedFleet(instances)) as board:
                rows += [measured(browser, board.url, instances, size, arguments.seconds) for size in SIZES]
        version = browser.version
        browser.close()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Chromium {version}, no GPU"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "frames.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "frames.md").write_text(table(machine, arguments.seconds, rows))
    print((RESULTS / "frames.md").read_text())
    return 0


def measured(browser: Browser, url: str, instances: int, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Frames of one window, a few looks after it was opened."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(url)
    page.wait_for_selector(".list tbody tr[data-id]")
    page.wait_for_selector("#charts path", state="attached")
    shown = page.evaluate("document.querySelectorAll('.tile').length")
    if shown != instances:
        raise RuntimeError(f"the page shows {shown} instances of {instances}")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.wait_for_timeout(_SETTLING * 1000)
    before = busy(session)
    found = page.evaluate(_MEASURE, seconds * 1000)
    took = busy(session) - before
    page.close()
    frames, tasks = sorted(found["frames"]), found["tasks"]
    return {
        "instances": instances,
        "width": size[0],
        "height": size[1],
        "frames": len(frames),
        "p50": round(frames[len(frames) // 2], 1),
        "p95": round(frames[int(len(frames) * 0.95)], 1),
        "worst": round(frames[-1], 1),
        "long_tasks": len(tasks),
        "longest_task": round(max(tasks, default=0.0), 1),
        "processor": round(took / seconds * 100, 1),
    }


def busy(session: CDPSession) -> float:
    """Seconds of a processor that the page's process has had."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["ProcessTime"])


def table(machine: str, seconds: float, rows: list[dict[str, Any]]) -> str:
    """The result for people."""
    lines = [
        "# Frames of the dashboard",
        "",
        f"`python benchmarks/dashboard_frames.py`; {seconds:g} s for each window, the fleet changes every 2 s.",
        f"{machine}. Times in milliseconds; 16.7 is 60 frames a second. The processor's share is of one core, the",
        "browser's drawing process apart.",
        "",
        "| instances | window | frames | p50 | p95 | worst | tasks over 50 ms | the longest | processor, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        window = f"{row['width']}x{row['height']}"
        names = ("frames", "p50", "p95", "worst", "long_tasks", "longest_task", "processor")
        figures = " | ".join(str(row[name]) for name in names)
        lines.append(f"| {row['instances']} | {window} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
