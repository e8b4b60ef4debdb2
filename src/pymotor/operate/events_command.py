"""`pymotor events`: what has happened in the fleet."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from typing import Any

from pymotor.operate.client import ControllerAwayError, ControllerCallError, ControllerClient
from pymotor.operate.target import TargetError, add_controller_options, controller_of

_POLL_SECONDS = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_controller_options(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on with what happens next")
    parser.add_argument("--after", type=int, default=0, metavar="ID", help="only events with a greater id")
    parser.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    parser.epilog = "Exit status: 0 done, 1 refused or failed, 2 wrong usage."


def run(arguments: argparse.Namespace) -> int:
    """Print them; returns the exit status."""
    after = arguments.after
    answer = None
    away = False
    try:
        with ControllerClient(controller_of(arguments)) as client:
            while True:
                try:
                    answer = client.get("/events", after=after)
                    away = False
                except ControllerAwayError as error:
                    if not arguments.follow or answer is None:
                        raise
                    if not away:
                        print(f"pymotor events: {error}; this goes on when one does", file=sys.stderr)
                    away = True
                    time.sleep(_POLL_SECONDS)
                    continue
                if answer["newest"] < after and arguments.follow:
                    after = 0  # another Controller leads, with a history of its own
                    continue
                for event in answer["events"]:
                    print(json.dumps(event) if arguments.json else in_words(event), flush=True)
                    after = event["id"]
                if answer["newest"] > after and answer["events"]:
                    continue
                if not arguments.follow:
                    return 0
                time.sleep(_POLL_SECONDS)
    except (ControllerCallError, TargetError) as error:
        print(f"pymotor events: {error}", file=sys.stderr)
        return 1


def in_words(event: dict[str, Any]) -> str:
    """One event for people."""
    moment = datetime.fromtimestamp(event["time"]).astimezone().isoformat(timespec="seconds")
    subject = event["instance"] or event["node"]
    return f"{moment}  {event['kind']}  {subject + ': ' if subject else ''}{event['why']}"
