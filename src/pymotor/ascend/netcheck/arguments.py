"""The options of `pymotor netcheck` and what they may be."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pymotor.ascend.netcheck.nodes import is_destination
from pymotor.ascend.netcheck.steps import CONFIG_PATH, STEPS
from pymotor.ascend.tools import HCCN_TOOL_PATH

_DESCRIPTION = """\
Check the network of the accelerators: links, health, addresses, gateways, TLS, pings between nodes, TCP ports.

  pymotor netcheck                                   this node
  pymotor netcheck --nodes node-b node-c             this one and others, by ssh
  pymotor netcheck --ranktable ranktable.json        pings to the devices of a ranktable
  pymotor netcheck collect -o a.json                 without ssh: on each node, then again with --peers ?.json
  pymotor netcheck judge a.json b.json               and one verdict on all
"""
_EPILOG = "Exit status: 0 nothing failed, 1 something did, 2 wrong usage or no tools here. See docs/network-check.md."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options and the two verbs `collect` and `judge`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    _add_survey(parser, nodes=True)
    _add_output(parser)
    parser.set_defaults(usage_error=parser.error, action="check")
    verbs = parser.add_subparsers(metavar="VERB")
    collect = verbs.add_parser(
        "collect", help="write what the tools say on this node to a file", argument_default=argparse.SUPPRESS
    )
    collect.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="file to write; - to print it"
    )
    _add_survey(collect, nodes=False)
    collect.set_defaults(usage_error=collect.error, action="collect")
    judge = verbs.add_parser(
        "judge", help="judge the files of several nodes together", argument_default=argparse.SUPPRESS
    )
    judge.add_argument("files", type=Path, nargs="+", metavar="FILE", help="files that `collect` wrote")
    _add_output(judge)
    judge.set_defaults(usage_error=judge.error, action="judge")


def _add_survey(parser: argparse.ArgumentParser, *, nodes: bool) -> None:
    # A verb's own defaults would overwrite what was typed before it, so only the first parser has any.
    def default(value: Any) -> Any:
        return value if nodes else argparse.SUPPRESS

    what = parser.add_argument_group("what to check")
    what.add_argument("--devices", type=devices, default=default(None), metavar="0-7,9", help="default: all there are")
    what.add_argument("--generation", choices=("auto", "A2", "A3"), type=_generation, default=default("auto"))
    what.add_argument(
        "--steps", type=steps, default=default(None), metavar="A,B", help=f"only these of {', '.join(STEPS)}"
    )
    what.add_argument("--skip", type=steps, default=default(frozenset()), metavar="A,B", help="all steps but these")
    what.add_argument(
        "--ping",
        choices=("all", "sample", "none"),
        default=default(None),
        help="all pairs of devices of different nodes, or three partners for each device (default: all with one "
        "other node, else sample)",
    )
    where = parser.add_argument_group("other nodes")
    if nodes:
        where.add_argument("--nodes", type=destinations, nargs="+", metavar="[USER@]HOST", help="by ssh, with keys")
        where.add_argument("--not-here", action="store_true", help="check only --nodes, not this machine")
        where.add_argument("--ssh-option", action="append", default=[], metavar="NAME=VALUE", help="for `ssh -o`")
    where.add_argument("--ranktable", type=Path, default=default(None), metavar="FILE", help="ping its devices too")
    where.add_argument(
        "--peers", type=Path, nargs="+", default=default([]), metavar="FILE", help="ping devices of files of `collect`"
    )
    where.add_argument(
        "--node-name", type=_name, default=default(None), help="this node's name (default: its host name)"
    )
    tcp = parser.add_argument_group("TCP")
    tcp.add_argument("--tcp-ports", type=ports, default=default(()), metavar="13700,20001", help="ports to connect to")
    tcp.add_argument(
        "--tcp-hosts", type=_hosts, default=default(()), metavar="A,B", help="besides --nodes and the ranktable's"
    )
    tcp.add_argument(
        "--tcp-listen",
        action="store_true",
        default=default(False),
        help="listen on free ones of --tcp-ports meanwhile, on all interfaces: tests the way before servers run",
    )
    if nodes:
        tcp.add_argument("--address", type=_name, help="where other nodes reach this machine")
    tools = parser.add_argument_group("tools")
    tools.add_argument(
        "--hccn-tool",
        default=default(os.environ.get(HCCN_TOOL_PATH, "")),
        metavar="PATH",
        help=f"default: {HCCN_TOOL_PATH}, PATH, the driver's directory",
    )
    tools.add_argument(
        "--hccn-conf", default=default(CONFIG_PATH), metavar="PATH", help=f"where {CONFIG_PATH} is mounted"
    )
    tools.add_argument("--at-once", type=_count, default=default(16), metavar="N", help="devices at once (default: 16)")
    tools.add_argument(
        "--timeout", type=_seconds, default=default(20.0), metavar="S", help="of each command (default: 20)"
    )
    tools.add_argument(
        "--tcp-timeout", type=_seconds, default=default(3.0), metavar="S", help="of a connection (default: 3)"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument("--every-device", action="store_true", help="a line for each device, good ones too")


def devices(text: str) -> tuple[int, ...]:
    """`0-7,9` as numbers."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) <= 4 for end in ends) or int(ends[0]) > int(ends[1]):
            raise argparse.ArgumentTypeError(f"{part.strip()!r} is no device number and no range like 0-7")
        chosen += range(int(ends[0]), int(ends[1]) + 1)
    if len(set(chosen)) != len(chosen):
        raise argparse.ArgumentTypeError(f"{text!r} names a device twice")
    return tuple(chosen)


def steps(text: str) -> frozenset[str]:
    """`link,health` as names of steps."""
    chosen = [part.strip() for part in text.split(",")]
    for step in chosen:
        if step not in STEPS:
            raise argparse.ArgumentTypeError(f"{step!r} is no step; there are {', '.join(STEPS)}")
    return frozenset(chosen)


def ports(text: str) -> tuple[int, ...]:
    """`13700,20001` as port numbers."""
    chosen = []
    for part in text.split(","):
        word = part.strip()
        if not (word.isascii() and word.isdigit() and len(word) <= 5 and 0 < int(word) < 65536):
            raise argparse.ArgumentTypeError(f"{word!r} is no port (1 to 65535)")
        chosen.append(int(word))
    return tuple(dict.fromkeys(chosen))


def destinations(text: str) -> tuple[str, ...]:
    """`node-b,root@node-c` as ssh destinations."""
    chosen = tuple(part.strip() for part in text.split(","))
    for destination in chosen:
        if not is_destination(destination):
            raise argparse.ArgumentTypeError(f"{destination!r} is no HOST or USER@HOST")
    return chosen


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(_name(part.strip()) for part in text.split(","))


def _name(text: str) -> str:
    if "@" in text or not is_destination(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no host name or address")
    return text


def _generation(text: str) -> str:
    return text.upper() if text.lower() in ("a2", "a3") else text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 256):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 256")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 3600")
    return seconds
