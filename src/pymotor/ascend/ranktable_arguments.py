"""The command line of `pymotor ranktable`: the flags of vllm-ascend's `gen_ranktable.sh`, and more."""

from __future__ import annotations

import argparse
import ipaddress
import shlex
from pathlib import Path

TOKEN_VARIABLE = "PYMOTOR_RANKTABLE_TOKEN"  # noqa: S105 - the variable's name
DEFAULT_PORT = 6657
"""Where the original's torchrun met; a firewall that was opened for it is open for this."""
DEFAULT_TIMEOUT = 600.0


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Add generate, collect, merge and check."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Make the ranktable that LLMDataDist needs, or check one. Nodes need npu-smi and hccn_tool, no torch.\n\n"
        "  the same on every node:  pymotor ranktable generate --ips 192.0.0.1 192.0.0.2 \\\n"
        "                               --prefill-device-cnt 8 --decode-device-cnt 8\n"
        "  once, from one host:     the same with --ssh\n"
        "  by files:                pymotor ranktable collect --local-host 192.0.0.1 -o node1.json   (on each node)\n"
        "                           pymotor ranktable merge node1.json node2.json \\\n"
        "                               --prefill-device-cnt 8 --decode-device-cnt 8"
    )
    parser.epilog = "Exit status: 0 good, 1 no ranktable or a bad one, 2 wrong usage or a file that cannot be read."
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    _generate(steps.add_parser("generate", help="make the ranktable of several nodes, together with them or by ssh"))
    _collect(steps.add_parser("collect", help="write down what this node adds, for merge"))
    _merge(steps.add_parser("merge", help="make a ranktable of what collect wrote on each node"))
    check = steps.add_parser("check", help="say what is wrong with a ranktable, by node and device")
    check.add_argument("file", type=Path, metavar="FILE", help="ranktable.json")
    check.add_argument("--json", action="store_true", help="print one JSON object, for scripts")


def _generate(parser: argparse.ArgumentParser) -> None:
    _address_list(parser, required=True)
    _counts(parser)
    _devices(parser)
    _output(parser)
    parser.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help=f"where the first node waits for the others, on its own address only (default: {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--timeout",
        type=_positive_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="S",
        help="seconds to wait for the other nodes (default: %(default)g)",
    )
    by_ssh = parser.add_argument_group("once, from one host, by ssh")
    by_ssh.add_argument("--ssh", action="store_true", help="ask each of --ips by ssh (keys, no passwords)")
    by_ssh.add_argument("--ssh-user", default="", metavar="USER", help="who to log in as")
    by_ssh.add_argument(
        "--ssh-command",
        type=_command,
        default=("ssh",),
        metavar="COMMAND",
        help="ssh with options of its own: 'ssh -p 2222' (default: ssh)",
    )
    by_ssh.add_argument(
        "--remote-pymotor",
        type=_command,
        default=("pymotor",),
        metavar="COMMAND",
        help="how pymotor is called there (default: pymotor)",
    )
    by_ssh.add_argument(
        "--node-device-ids",
        type=_node_device_ids,
        action="append",
        default=[],
        metavar="IP=a,b,…",
        help="devices of one node, where they differ from --local-device-ids; may be given for each node",
    )
    parser.epilog = f"{TOKEN_VARIABLE}, the same on every node, lets only nodes that know it take part."
    parser.set_defaults(usage_error=parser.error)


def _collect(parser: argparse.ArgumentParser) -> None:
    _devices(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("-"), metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--hccl", action="store_true", help="write HCCL's table of these devices instead, which HCCL_PATH names in pods"
    )
    parser.set_defaults(usage_error=parser.error)


def _merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="one of each node, prefill nodes first")
    _address_list(parser, required=False)
    _counts(parser)
    _output(parser)
    parser.set_defaults(usage_error=parser.error)


def _address_list(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--ips",
        nargs="+",
        type=_ip_address,
        action=_Distinct,
        required=required,
        metavar="IP",
        help="local address of each node, prefill nodes first" + ("" if required else " (default: order of the files)"),
    )


def _counts(parser: argparse.ArgumentParser) -> None:
    for role in ("prefill", "decode"):
        parser.add_argument(
            f"--{role}-device-cnt",
            type=_positive,
            required=True,
            metavar="N",
            help=f"number of devices that {role}, on all nodes together",
        )


def _devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--npus-per-node",
        type=_positive,
        metavar="N",
        help="use the first N devices of each node (an A3 card is two devices); with --local-device-ids their number",
    )
    parser.add_argument(
        "--local-device-ids", type=_device_ids, metavar="a,b,…", help="use these devices of this node, in this order"
    )
    parser.add_argument("--network-card-name", metavar="NIC", help="network card whose address is this node's")
    parser.add_argument(
        "--local-host", type=_ip_address, metavar="IP", help="this node's address, where it cannot be found out"
    )


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        "--ranktable-path",
        type=Path,
        default=Path("ranktable.json"),
        metavar="FILE",
        help="where to write it, - for standard output (default: %(default)s)",
    )


class _Distinct(argparse.Action):
    """A list in which nothing is twice."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        assert isinstance(values, list)
        doubled = sorted({value for value in values if values.count(value) > 1})
        if doubled:
            parser.error(f"{option}: {', '.join(doubled)} is there twice")
        setattr(namespace, self.dest, values)


def _ip_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _port(text: str) -> int:
    port = _positive(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return port


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _device_ids(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of device ids as 0,1,2")
    return [int(word) for word in words]


def _command(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    if not words:
        raise argparse.ArgumentTypeError("a command has at least one word")
    return words


def _node_device_ids(text: str) -> tuple[str, list[int]]:
    ip, equals, ids = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP=a,b,…")
    return _ip_address(ip), _device_ids(ids)
