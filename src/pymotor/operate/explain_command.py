"""`pymotor explain`: why a request went where it went, or where one would go now."""

from __future__ import annotations

import argparse
import json
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec

from pymotor.control_plane import ClusterToken, TokenError
from pymotor.control_plane.arguments import add_certificate_options
from pymotor.control_plane.asking import PlainURLError, Trust, verb_client
from pymotor.control_plane.certificate_trouble import why_not
from pymotor.control_plane.tls import TLSError
from pymotor.local.selection import add_fleet_options, choose_fleet
from pymotor.local.state import FleetError, state_home
from pymotor.operate.durations import duration
from pymotor.operate.target import certificates_for

DONE, FAILED, USAGE = 0, 1, 2
_SECONDS = 15.0
_PATH = "/v1/chat/completions"
_JSON = {"Content-Type": "application/json"}
_TEXTS = "beginnings of texts are compared"
_WHY_TEXTS = {
    "text": f"the prompt's tokens, or a KV Conductor, are lacking: {_TEXTS}",
    "late": f"the KV Conductor did not answer within kv_affinity_patience: {_TEXTS}",
    "lost": f"the connection to the KV Conductor broke off: {_TEXTS}",
    "closed": f"the KV Conductor could not be asked, as when it is gone, or was late again and again: {_TEXTS}",
    "unfollowed": f"the KV Conductor follows no engine that could compute the prompt: {_TEXTS}",
}
_ESTIMATED = frozenset(("text", "closed", "unfollowed"))
"""Where nobody need have read the prompt's tokens: their number may be a guess from the length of its text."""
_COLUMNS = (
    ("endpoint", "endpoint"),
    ("place", "place"),
    ("load", "load"),
    ("match_device", "device"),
    ("match_any", "any tier"),
    ("match_expected", "expected"),
    ("prefill_cost", "to compute"),
    ("score", "score"),
)


class BodyError(Exception):
    """What `--body` names cannot be read, or is no JSON; the message says why."""


class ExplainError(Exception):
    """Nobody can be asked, or nobody knows; the message says what to do."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_fleet_options(parser).add_argument(
        "--management", metavar="URL", help="management URL of a Coordinator; default: that of the fleet that runs here"
    )
    parser.add_argument(
        "request",
        nargs="?",
        default="",
        metavar="ID",
        help="X-Request-Id of a recent request, or the id of its answer; default: the newest",
    )
    parser.add_argument(
        "--body", metavar="FILE", help="a request's JSON, - for standard input: where would it go now? Nothing is sent"
    )
    parser.add_argument("--path", help=f"of --body (default: {_PATH})")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="of --body, as X-Session-ID"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    add_certificate_options(parser)
    parser.epilog = "Exit status: 0 done, 1 nobody knows or nobody can be asked, 2 wrong usage, or FILE is no JSON."


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; returns the exit status."""
    wrong = _wrong_usage(arguments)
    if wrong:
        print(f"pymotor explain: {wrong}", file=sys.stderr)
        return USAGE
    try:
        body = _read_body(arguments.body) if arguments.body is not None else None
        found = _ask(arguments, body, *_management(arguments))
    except BodyError as error:
        print(f"pymotor explain: {error}", file=sys.stderr)
        return USAGE
    except ExplainError as error:
        print(f"pymotor explain: {error}", file=sys.stderr)
        return FAILED
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(lines_of(found)))
    return DONE


def _wrong_usage(arguments: argparse.Namespace) -> str:
    if arguments.body is not None:
        if arguments.request:
            return "--body asks about a request that is not sent, an ID about one that was: not both"
        bad = next((one for one in arguments.header if ":" not in one), None)
        return f"--header {bad!r} has no colon: write NAME:VALUE" if bad is not None else ""
    if arguments.path is not None:
        return "--path goes with --body"
    return "--header goes with --body" if arguments.header else ""


def _management(arguments: argparse.Namespace) -> tuple[str, Trust | None]:
    """Its URL, and what to ask it with."""
    try:
        if arguments.management:
            url = str(arguments.management).rstrip("/")
            return url, certificates_for((url,), arguments)
        fleet = choose_fleet(state_home(), arguments.fleet, arguments.port)
        state = fleet.read_state() if fleet is not None else None
        if state is None or not state.running:
            raise ExplainError("no such fleet runs on this machine: say where the Coordinator is with --management URL")
        return state.management_url, state.management_certificates()
    except (FleetError, TLSError, PlainURLError) as error:
        raise ExplainError(str(error)) from error


def _ask(
    arguments: argparse.Namespace, body: msgspec.Raw | None, url: str, certificates: Trust | None
) -> dict[str, Any]:
    try:
        token = ClusterToken.from_environment()
        shown = token.header if token is not None else None
        with verb_client(url, certificates, timeout=_SECONDS, headers=shown) as client:
            if body is not None:
                headers = dict(_header(one) for one in arguments.header)
                asked = {"path": arguments.path or _PATH, "body": body, "headers": headers}
                reply = client.post(f"{url}/explain", content=msgspec.json.encode(asked), headers=_JSON)
            else:
                reply = client.get(f"{url}/explain", params={"request_id": arguments.request})
        found = reply.json()
    except TokenError as error:
        raise ExplainError(str(error)) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ExplainError(f"the Coordinator at {url} cannot be asked: {why_not(error)}") from error
    if reply.status_code != 200:
        told = found.get("error", found) if isinstance(found, dict) else found
        raise ExplainError(str(told.get("message", told) if isinstance(told, dict) else told))
    return dict(found)


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip(), value.strip()


def _read_body(file: str) -> msgspec.Raw:
    """The file's own bytes: how a request is written can decide where it goes. Raises `BodyError`."""
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        msgspec.json.decode(text, type=msgspec.Raw)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise BodyError(f"{file} is no request: {error}") from error
    return msgspec.Raw(text)


def lines_of(found: dict[str, Any]) -> list[str]:
    """The explanation for people."""
    mode = f", {found['mode']}" if found["mode"] else ""
    about = "about " if found["found"] in _ESTIMATED else ""
    lines = [f"{_called(found)}{about}{found['prompt_tokens']} prompt tokens; matches: {found['found']}{mode}"]
    lines += [_WHY_TEXTS[found["found"]]] if found["found"] in _WHY_TEXTS else []
    # A Coordinator of an older version says no such thing.
    lines += [found["note"]] if found.get("note") else []
    for one in found.get("workers", []):
        title = "worker" if len(one["workers"]) == 1 else "workers"
        lines.append(f"{title} {', '.join(map(str, one['workers']))}: {', '.join(filter(None, one['chosen']))}")
    for leg in found["legs"]:
        bound = f", no load above {_figure(leg['highest_load'])}" if leg["highest_load"] is not None else ""
        item = f", media item {leg['item']}" if leg.get("item") is not None else ""
        lines += ["", f"{leg['role']}{item}, by {leg['by']}{bound}"]
        lines += [leg["note"]] if leg.get("note") else []
        lines += _table(leg["endpoints"]) if leg["endpoints"] else []
    return lines


def _called(found: dict[str, Any]) -> str:
    """Which request it is and how long ago it was placed, as far as is known, up to a colon."""
    words = [f"request {found['request_id']}"] if found["request_id"] else []
    if found.get("placed_at") is not None:
        words.append(f"{duration(time.time() - found['placed_at'])} ago")
    return f"{', '.join(words)}: " if words else ""


def _table(endpoints: list[dict[str, Any]]) -> list[str]:
    columns = [(name, title) for name, title in _COLUMNS if any(one.get(name) is not None for one in endpoints)]
    rows = [["", *(title for _, title in columns), ""]]
    for one in endpoints:
        figures = [_figure(one.get(name)) for name, _ in columns]
        rows.append(["*" if one["chosen"] else "", *figures, one.get("excluded", "")])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(_placed(row, widths)).rstrip() for row in rows]


def _placed(row: list[str], widths: list[int]) -> list[str]:
    """Mark, endpoint and reason to the left, figures to the right."""
    last = len(row) - 1
    return [
        text.ljust(width) if place in (0, 1, last) else text.rjust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    ]


def _figure(value: Any) -> str:
    """Six digits of a fraction, or all up to the tenth where that is more; never with an exponent."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 100_000 else f"{Decimal(f'{value:g}'):f}"
