"""The command line of `pymotor proxy`: the flags of all example proxies of vLLM and vLLM-Ascend, and a few more."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from pymotor.control_plane.arguments import at_least_one, seconds, some_seconds
from pymotor.coordinator.proxy.addresses import Address, AddressError, address_from_url, host_from, port_from
from pymotor.coordinator.proxy.handoffs import WORDS
from pymotor.fleet import ECDialect, Role

Parsed = TypeVar("Parsed")

NO_PREFILL = ("", "disable", "none")
"""What `--prefill-servers-urls` says where the decode servers compute whole requests."""
_MOST_WORKERS = 256
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_LISTS = (
    ("encoder", Role.ENCODE, "encode engines (media to embeddings)"),
    ("prefiller", Role.PREFILL, "prefill engines"),
    ("decoder", Role.DECODE, "decode engines"),
    ("pd", Role.UNION, "engines that prefill and decode"),
)


class UsageError(ValueError):
    """The flags contradict each other; the message says how and what to write instead."""


class Listed(NamedTuple):
    """An engine that the command line names."""

    role: Role
    address: Address


def configure(parser: argparse.ArgumentParser) -> None:
    """Add all flags."""
    engines = parser.add_argument_group("engines: a port for each host, or one host for all ports")
    for name, _, what in _LISTS:
        engines.add_argument(
            f"--{name}-hosts", nargs="*", default=[], type=_typed(host_from), metavar="HOST", help=what
        )
        engines.add_argument(
            f"--{name}-ports", nargs="*", default=[], type=_typed(port_from), metavar="PORT", help="their ports"
        )
    urls = parser.add_argument_group("engines by URL: http://host:port, separated by commas")
    urls.add_argument("--encode-servers-urls", default="", metavar="URLS", help="encode engines")
    urls.add_argument(
        "--prefill-servers-urls",
        default="",
        metavar="URLS",
        help="prefill engines; 'disable' or 'none': the decode servers prefill and decode",
    )
    urls.add_argument("--decode-servers-urls", default="", metavar="URLS", help="decode engines")
    _configure_handoffs(parser)
    _configure_listening(parser)
    _configure_care(parser)
    _configure_without_effect(parser)


def _configure_handoffs(parser: argparse.ArgumentParser) -> None:
    handoff = parser.add_argument_group("how the stages hand over")
    handoff.add_argument(
        "--handoff",
        default="pull",
        metavar="WAY",
        help=f"from prefill to decode: {', '.join(WORDS)}, or the connector's name as the engines have it"
        " (default: %(default)s)",
    )
    handoff.add_argument(
        "--embeddings",
        default=ECDialect.STORE.value,
        choices=[dialect.value for dialect in ECDialect],
        help="from encode to prefill: ECExampleConnector, ECCPUConnector, ECMooncakeConnector (default: %(default)s)",
    )
    handoff.add_argument(
        "--prefiller-bootstrap-ports",
        nargs="*",
        default=[],
        type=_typed(port_from),
        metavar="PORT",
        help="paired: VLLM_MOONCAKE_BOOTSTRAP_PORT of each prefill engine (default: 8998)",
    )
    handoff.add_argument(
        "--ec-consumer-zmq-addrs",
        default="",
        metavar="ADDRESSES",
        help="embeddings that are pushed: tcp://host:port of each prefill (or pd) engine, separated by commas",
    )
    handoff.add_argument("--ec-consumer-dp-size", type=int, choices=[1], default=1, help=argparse.SUPPRESS)
    handoff.add_argument(
        "--no-rewrite", action="store_true", help="the media themselves go to every engine, beside their embeddings"
    )


def _configure_listening(parser: argparse.ArgumentParser) -> None:
    listening = parser.add_argument_group("where it listens")
    listening.add_argument(
        "--host", default="localhost", help="address; 0.0.0.0 or :: for all interfaces (default: %(default)s)"
    )
    listening.add_argument("--port", type=_port, default=8000, help="port; 0: any free one (default: %(default)s)")
    listening.add_argument(
        "--advertise-address",
        default="",
        metavar="HOST",
        help="callback: where decode engines reach this proxy, where --host stands for all interfaces",
    )
    listening.add_argument(
        "--management-port", type=_port, metavar="PORT", help="probes and /instances at a port of their own"
    )
    listening.add_argument("--observability-port", type=_port, metavar="PORT", help="/metrics at a port of its own")
    listening.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="what operators have to show, where PYMOTOR_PROXY_TOKEN is not set; without a token they must be on"
        " this machine",
    )


def _configure_care(parser: argparse.ArgumentParser) -> None:
    care = parser.add_argument_group("how it works")
    care.add_argument(
        "--max-retries", type=at_least_one, default=3, metavar="N", help="tries of each leg (default: %(default)s)"
    )
    care.add_argument(
        "--retry-delay",
        type=seconds,
        default=0.001,
        metavar="SECONDS",
        help="before the second try, doubled each time (default: %(default)s)",
    )
    care.add_argument(
        "--decode-retries", type=_not_negative, metavar="N", help="further tries of a whole request; one fewer than"
        " --max-retries where it is not stated",
    )  # fmt: skip
    care.add_argument(
        "--max-waiting-retries",
        type=at_least_one,
        default=3,
        metavar="N",
        help="looks at an engine that was added before it is given up (default: %(default)s)",
    )
    care.add_argument(
        "--waiting-retry-interval",
        type=some_seconds,
        default=10.0,
        metavar="SECONDS",
        help="between two of these looks (default: %(default)g)",
    )
    care.add_argument(
        "--health-interval",
        type=some_seconds,
        default=5.0,
        metavar="SECONDS",
        help="between two looks at an engine's /health (default: %(default)g)",
    )
    care.add_argument(
        "--allowed-local-media-path",
        default="",
        metavar="DIRECTORY",
        help="what the engines were started with; file:// media elsewhere are refused",
    )
    care.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes (default: %(default)s)")
    care.add_argument("--log-level", type=str.upper, choices=LOG_LEVELS, default="INFO", help="least level of the log")
    care.add_argument(
        "--grace",
        type=some_seconds,
        default=20.0,
        metavar="SECONDS",
        help="time that running requests have when it is to end (default: %(default)g)",
    )


def _configure_without_effect(parser: argparse.ArgumentParser) -> None:
    """Flags of the originals that ours does without: items go to encoders one by one, and requests are metrics."""
    parser.add_argument(
        "--encoder-dispatch-mode", choices=("single", "fanout"), default="fanout", help=argparse.SUPPRESS
    )
    parser.add_argument("--log-requests", action="store_true", help=argparse.SUPPRESS)


def listed_engines(arguments: argparse.Namespace) -> list[Listed]:
    """The engines that the flags name, encode first. Raises `UsageError`."""
    found = [
        Listed(role, address)
        for name, role, _ in _LISTS
        for address in _zipped(name, getattr(arguments, f"{name}_hosts"), getattr(arguments, f"{name}_ports"))
    ]
    found += _by_url(arguments)
    for position, one in enumerate(found):
        if any(other.role is one.role and other.address.socket == one.address.socket for other in found[:position]):
            raise UsageError(f"the {one.role.value} engine {one.address} is named twice")
    if not any(one.role is not Role.ENCODE for one in found):
        raise UsageError(
            "no engine is named that could answer: give --prefiller-hosts and --prefiller-ports with --decoder-hosts "
            "and --decoder-ports, or --pd-hosts and --pd-ports"
        )
    return found


def _zipped(name: str, hosts: Sequence[str], ports: Sequence[int]) -> list[Address]:
    """One address for each port; a host that is not stated is this machine."""
    if len(hosts) <= 1 and ports:
        hosts = [*(hosts or ["localhost"])] * len(ports)
    if len(hosts) != len(ports):
        raise UsageError(
            f"--{name}-hosts has {len(hosts)} and --{name}-ports {len(ports)}: give a port for each host, or one host"
            " for all ports"
        )
    return [Address(host, port) for host, port in zip(hosts, ports, strict=True)]


def _by_url(arguments: argparse.Namespace) -> Iterator[Listed]:
    encodes, decodes = arguments.encode_servers_urls, arguments.decode_servers_urls
    prefills = arguments.prefill_servers_urls
    if prefills.strip().lower() in NO_PREFILL:
        prefills = ""
    for role, text in (
        (Role.ENCODE, encodes),
        (Role.PREFILL, prefills),
        (Role.DECODE if prefills else Role.UNION, decodes),
    ):
        for url in filter(None, map(str.strip, text.split(","))):
            yield Listed(role, _address_of(url))


def _address_of(url: str) -> Address:
    try:
        return address_from_url(url)
    except AddressError as error:
        raise UsageError(str(error)) from error


def _typed(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """`parse` with errors that argparse shows."""

    def parsed(text: str) -> Parsed:
        try:
            return parse(text)
        except AddressError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _port(text: str) -> int:
    return 0 if text == "0" else _typed(port_from)(text)


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def _workers(text: str) -> int:
    number = at_least_one(text)
    if number > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{number} processes are more than {_MOST_WORKERS}")
    return number
