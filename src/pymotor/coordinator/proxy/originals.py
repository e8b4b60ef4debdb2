"""The example proxies of vLLM and vLLM-Ascend by their file names: their flags and defaults, over `pymotor proxy`.

The scripts in `examples/` call `run`. A flag may be shortened as the original allows it, whatever other flags ours has.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec

from pymotor.cli import main


class Original(msgspec.Struct, frozen=True):
    """One example proxy."""

    flags: tuple[str, ...]
    """All that it has had, for shortening."""
    defaults: tuple[str, ...]
    """Words put before the user's, which win."""


_HELP = ("--help",)
_LISTENING = ("--host", "--port")
_PD = ("--prefiller-hosts", "--prefiller-ports", "--decoder-hosts", "--decoder-ports")
_RETRIES = ("--max-retries", "--retry-delay")
_E_PD = ("--encoder-hosts", "--encoder-ports", "--pd-hosts", "--pd-ports")
_URLS = ("--encode-servers-urls", "--prefill-servers-urls", "--decode-servers-urls")
_WAITING = ("--max-waiting-retries", "--waiting-retry-interval")
_ONE_PAIR = (
    *("--prefiller-hosts", "localhost", "--prefiller-ports", "8001"),
    *("--decoder-hosts", "localhost", "--decoder-ports", "8002"),
)

ORIGINALS: Mapping[str, Original] = {
    "load_balance_proxy_server_example": Original(
        (*_HELP, *_LISTENING, *_PD, *_RETRIES, *_WAITING, "--workers", "--log-level"),
        ("--handoff", "pull", *_ONE_PAIR),
    ),
    "load_balance_proxy_layerwise_server_example": Original(
        (*_HELP, *_LISTENING, *_PD, *_RETRIES), ("--handoff", "callback", *_ONE_PAIR)
    ),
    "epd_load_balance_proxy_layerwise_server_example": Original(
        (*_HELP, *_LISTENING, *_E_PD, *_PD, *_RETRIES), ("--handoff", "callback")
    ),
    "disagg_epd_proxy": Original((*_HELP, *_LISTENING, *_URLS, "--encoder-dispatch-mode"), ("--handoff", "pull")),
}
"""By the name of the script, without `.py`."""


def run(name: str) -> int:
    """Be the example proxy of this name, with this process's arguments; returns the exit status."""
    return main(full_command_line(name, sys.argv[1:]))


def full_command_line(name: str, words: Sequence[str]) -> list[str]:
    """What `pymotor` is told in place of the arguments `words` of the example proxy of this name."""
    original = ORIGINALS[name]
    return ["proxy", *original.defaults, *(_in_full(word, original.flags) for word in words)]


def _in_full(word: str, flags: Sequence[str]) -> str:
    """A shortened flag as the original reads it; any other word as it is."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    if flag in flags:
        return word
    found = [one for one in flags if one.startswith(flag)]
    return f"{found[0]}{equals}{value}" if len(found) == 1 and len(flag) > 2 else word
