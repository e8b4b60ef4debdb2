"""TLS of the simulated engine's server, as uvicorn makes it for vLLM."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("pymotor.sim")

Stamp = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class TLSOptions:
    """The flags `--ssl-…` of `vllm serve`."""

    certificate: str
    key: str
    authority: str = ""
    """Who signs clients' certificates."""
    requirement: int = 0
    """`ssl.VerifyMode`: 0 none, 1 optional, 2 required."""
    refresh: bool = False
    """Whether changed files are taken up."""


class ServerContext:
    """One context, changed in place when files do: what vLLM does with `--enable-ssl-refresh`."""

    def __init__(self, options: TLSOptions) -> None:
        """Raises `OSError`; `ssl.SSLError` is one."""
        self._options = options
        self._seen = self._stamps()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.VerifyMode(options.requirement)
        self._load()

    def refresh(self) -> None:
        """Take up files that have changed; those that do not fit are told in the log."""
        if not self._options.refresh:
            return
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._load()
        except OSError as error:
            log.error("changed certificates cannot be loaded: %s", error)
        else:
            log.info("changed certificates are loaded")

    def _load(self) -> None:
        options = self._options
        self.context.load_cert_chain(options.certificate, options.key or None, password=b"")
        if options.authority:
            self.context.load_verify_locations(options.authority)

    def _stamps(self) -> list[Stamp | None]:
        return [_stamp(path) for path in (self._options.certificate, self._options.key, self._options.authority)]


def _stamp(path: str) -> Stamp | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
