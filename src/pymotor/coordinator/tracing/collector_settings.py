"""How a collector is spoken to, as OpenTelemetry's variables of the environment say it.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/. Each variable is read as `OTEL_EXPORTER_OTLP_TRACES_…` and,
where that is empty, as `OTEL_EXPORTER_OTLP_…`. What cannot be read is left out, as that document asks for, and told.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from pymotor.coordinator.tracing.proxies import proxy_for

TRACES_PATH = "/v1/traces"
SECONDS = 10.0
DELAY = 1.0
_DELAY_VARIABLE = "OTEL_BSP_SCHEDULE_DELAY"
_MILLISECONDS = re.compile(r"[0-9]{1,9}")
_LONGEST_DELAY = 3_600_000
_LONGEST_SHOWN = 50
_LONGEST_SECONDS = 86_400.0
_PROBABLY_MILLISECONDS = 1000.0
COMPRESSIONS = ("none", "gzip", "deflate")
_FOR_TRACES = "OTEL_EXPORTER_OTLP_TRACES_"
_FOR_ALL = "OTEL_EXPORTER_OTLP_"
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ENCODED_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_OWN_HEADERS = frozenset((
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
))  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
PROXY_SCHEMES = ("http", "https")


class NamedFile(NamedTuple):
    """A file, and the variable that names it; the path is empty where none does."""

    variable: str = ""
    path: str = ""


_NO_FILE = NamedFile()


@dataclass(frozen=True)
class CollectorSettings:
    """What a `CollectorClient` has to know. Neither `repr` nor `where` shows what may be secret."""

    url: str = field(repr=False)
    """Where spans go; without user and password."""
    where: str
    """The same as a log may have it."""
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Names in lower case."""
    seconds: float = SECONDS
    """For one export with all its tries."""
    compression: str = COMPRESSIONS[0]
    """One of `COMPRESSIONS`."""
    certificate: NamedFile = _NO_FILE
    """Who is trusted; without: those whom the machine or `SSL_CERT_FILE` names."""
    client_certificate: NamedFile = _NO_FILE
    client_key: NamedFile = _NO_FILE
    """Without: it is in the same file as the certificate."""
    proxy: str = field(default="", repr=False)
    """URL; empty: none."""
    delay: float = DELAY
    """Seconds for which traces are collected before they are sent together."""


class Trouble(NamedTuple):
    """A variable that cannot be done as it is."""

    variable: str
    message: str
    value: str | None = None
    """None where it may be secret."""
    suggestion: str = ""


def traces_url(endpoint: str) -> str:
    """Where OTLP over HTTP takes traces: the path of the protocol where the URL has none."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else parts._replace(path=TRACES_PATH).geturl()


def can_be_asked(url: str) -> bool:
    """Whether a request can go to this http or https URL, if somebody is there."""
    try:
        # The system's resolver is given no name with labels that are empty or too long.
        httpx.URL(url).raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        return False
    return True


def collector_settings(endpoint: str, environment: Mapping[str, str]) -> tuple[CollectorSettings, list[Trouble]]:
    """For the collector at `endpoint`, an http or https URL; and what is wrong with the environment."""
    said = _Said(environment)
    parts = urlsplit(traces_url(endpoint))
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    headers = said.headers()
    if parts.username or parts.password:
        known = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        headers[b"authorization"] = b"Basic " + base64.b64encode(known.encode())
    settings = CollectorSettings(
        url,
        _where(parts),
        tuple(headers.items()),
        said.seconds(),
        said.compression(),
        said.file("CERTIFICATE"),
        said.file("CLIENT_CERTIFICATE"),
        said.key(),
        said.proxy(url),
        said.delay(),
    )
    return settings, said.troubles


def _where(parts: SplitResult) -> str:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"


class _Said:
    """What the environment says, and what is wrong with it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.troubles: list[Trouble] = []

    def of(self, name: str) -> tuple[str, str]:
        """The variable that says it, and what."""
        for prefix in (_FOR_TRACES, _FOR_ALL):
            value = self._environment.get(prefix + name, "").strip()
            if value:
                return prefix + name, value
        return _FOR_ALL + name, ""

    def file(self, name: str) -> NamedFile:
        """A file, without looking whether it is there."""
        return NamedFile(*self.of(name))

    def key(self) -> NamedFile:
        """That of the client's certificate."""
        found = self.file("CLIENT_KEY")
        if found.path and not self.of("CLIENT_CERTIFICATE")[1]:
            message = f"{found.variable} is set and no certificate that it belongs to: none is shown to the collector"
            suggestion = f"set {found.variable.replace('_KEY', '_CERTIFICATE')} too"
            self.troubles.append(Trouble(found.variable, message, found.path, suggestion))
        return found

    def delay(self) -> float:
        """Seconds between two exports."""
        value = self._environment.get(_DELAY_VARIABLE, "").strip()
        if not value:
            return DELAY
        if _MILLISECONDS.fullmatch(value) and int(value) <= _LONGEST_DELAY:
            return int(value) / 1000
        message = f"{_DELAY_VARIABLE} is no number of milliseconds up to {_LONGEST_DELAY}; {DELAY * 1000:g} it is"
        self.troubles.append(Trouble(_DELAY_VARIABLE, message, value[:_LONGEST_SHOWN], "set it to such as 1000"))
        return DELAY

    def seconds(self) -> float:
        """The time of an export."""
        variable, value = self.of("TIMEOUT")
        if not value:
            return SECONDS
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not isfinite(seconds) or not 0.0 < seconds <= _LONGEST_SECONDS:
            message = f"{variable} is no number of seconds above 0 and up to {_LONGEST_SECONDS:.0f}; {SECONDS:g} it is"
            self.troubles.append(Trouble(variable, message, value, "set it to seconds, such as 10"))
            return SECONDS
        if seconds >= _PROBABLY_MILLISECONDS:
            message = f"{variable} is read as seconds, as OpenTelemetry's SDK for Python and vLLM do, not milliseconds"
            self.troubles.append(Trouble(variable, message, value, "set it to seconds, such as 10"))
        return seconds

    def compression(self) -> str:
        """One of `COMPRESSIONS`."""
        variable, value = self.of("COMPRESSION")
        if not value or value.lower() in COMPRESSIONS:
            return value.lower() or COMPRESSIONS[0]
        message = f"{variable} names a compression that is not known; nothing is compressed"
        self.troubles.append(Trouble(variable, message, value, f"set it to one of {', '.join(COMPRESSIONS)}"))
        return COMPRESSIONS[0]

    def headers(self) -> dict[bytes, bytes]:
        """Names and values, a list of `name=value` with commas between; both may be percent-encoded."""
        variable, value = self.of("HEADERS")
        found: dict[bytes, bytes] = {}
        for number, entry in enumerate(value.split(","), 1):
            if not entry.strip():
                continue
            name, is_one, text = (part.strip() for part in entry.partition("="))
            name = unquote(name).strip().lower()
            # Values that break the rules for encoding them were not encoded, as other SDKs have it.
            text = unquote(text).strip() if _ENCODED_VALUE.fullmatch(text) else text
            if not is_one or not _HEADER_NAME.fullmatch(name) or _CONTROL.search(text):
                message = f"entry {number} of {variable} is no header; it is left out"
                self.troubles.append(Trouble(variable, message, None, "write name=value, the value percent-encoded"))
                continue
            if name in _OWN_HEADERS:
                message = f"entry {number} of {variable} is {name}, which the way of sending decides; it is left out"
                self.troubles.append(Trouble(variable, message, None, "take it out"))
                continue
            found[name.encode()] = text.encode("utf-8", "surrogateescape")
        return found

    def proxy(self, url: str) -> str:
        """The proxy's URL."""
        proxy = proxy_for(url, self._environment)
        try:
            parts = urlsplit(proxy)
            names_one = parts.scheme in PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
            usable = not proxy or (names_one and can_be_asked(proxy))
        except ValueError:
            usable = False
        if not usable:
            variable = f"{urlsplit(url).scheme}_proxy"
            message = f"{variable} or all_proxy names a proxy that is no http or https URL: no trace can be sent"
            suggestion = "name one that is, or the collector's host in no_proxy"
            self.troubles.append(Trouble(variable, message, None, suggestion))
        return proxy
