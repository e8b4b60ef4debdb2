"""Sends requests of OTLP over HTTP to one collector (https://opentelemetry.io/docs/specs/otlp/#otlphttp).

What may pass, no connection and the statuses 429, 502, 503 and 504, is tried again: after what `Retry-After` says, else
after a second and then twice as long each time, as long as there is time.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import ssl
import threading
import zlib
from datetime import timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from time import monotonic, time

import httpx

from pymotor.coordinator.tracing.collector_settings import CollectorSettings
from pymotor.coordinator.tracing.partial_success import PartialSuccess, partial_success

TRIES = 6
_PASSING = frozenset((429, 502, 503, 504))
_JITTER = 0.2
_LONGEST_RESPONSE = 65_536
_PROTOBUF = "application/x-protobuf"
_GZIP_LEVEL = 6


class NotTaken(Exception):
    """A collector has not taken what it was sent; the message says why, and nothing secret."""


class UnusableFile(Exception):
    """A certificate or key cannot be used."""

    def __init__(self, variable: str, path: str, why: str) -> None:
        """`variable`: which names it, `path` empty where that is not known."""
        super().__init__(f"{path or variable}: {why}")
        self.variable = variable
        self.path = path
        self.why = why


class _Response:
    """What a collector has answered."""

    def __init__(self, status: int, headers: httpx.Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def pymotor_version() -> str:
    """Of the package; "unknown" where it runs without being installed."""
    try:
        return version("pymotor")
    except PackageNotFoundError:
        return "unknown"


def tls_context(settings: CollectorSettings) -> ssl.SSLContext:
    """Whom to trust and what to show, read from the files now. Raises `UnusableFile`."""
    if not settings.url.startswith("https:"):
        # Reading all authorities costs more than everything else here; this one trusts nobody.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted, shown = settings.certificate, settings.client_certificate
    try:
        context = ssl.create_default_context(cafile=trusted) if trusted else httpx.create_ssl_context()
    except OSError as error:
        variable = "OTEL_EXPORTER_OTLP_CERTIFICATE" if trusted else "SSL_CERT_FILE"
        raise UnusableFile(variable, trusted, _why(error)) from error
    if shown:
        try:
            # A key with a password would ask for it at the terminal.
            context.load_cert_chain(shown, settings.client_key or None, password="")
        except OSError as error:
            raise UnusableFile("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", shown, _why(error)) from error
    return context


class CollectorClient:
    """Speaks to one collector, in one thread; `close` it."""

    def __init__(self, settings: CollectorSettings) -> None:
        self._settings = settings
        self._headers = {
            b"content-type": _PROTOBUF.encode(),
            b"user-agent": f"PyMotor-OTLP-Exporter-Python/{pymotor_version()}".encode(),
            b"accept-encoding": b"identity",
        }
        if settings.compression != "none":
            self._headers[b"content-encoding"] = settings.compression.encode()
        self._headers.update(settings.headers)
        self._http: httpx.Client | None = None
        self._given_up = threading.Event()

    def send(self, request: bytes) -> PartialSuccess | None:
        """Have these spans taken; returns what the collector has against them all the same. Raises `NotTaken`."""
        body = self._compressed(request)
        deadline = monotonic() + self._settings.seconds
        for number in range(TRIES):
            pause = 2**number * random.uniform(1 - _JITTER, 1 + _JITTER)
            try:
                response = self._posted(body, deadline)
            except httpx.TransportError as error:
                why = _why(error)
            else:
                if 200 <= response.status < 300:
                    return _told_in(response)
                why = f"it answers {response.status}"
                if response.status not in _PASSING:
                    raise NotTaken(why)
                asked = _retry_after(response.headers)
                pause = pause if asked is None else asked
            if number == TRIES - 1 or monotonic() + pause > deadline or self._given_up.wait(pause):
                break
        raise NotTaken(why)

    def give_up(self) -> None:
        """There is no further try from now on. From any thread."""
        self._given_up.set()

    def close(self) -> None:
        """End the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _compressed(self, request: bytes) -> bytes:
        compression = self._settings.compression
        if compression == "gzip":
            return gzip.compress(request, _GZIP_LEVEL)
        return zlib.compress(request) if compression == "deflate" else request

    def _posted(self, body: bytes, deadline: float) -> _Response:
        """Raises `NotTaken`, and `httpx.TransportError` after a second try at once: an idle connection was closed, or
        certificates have changed."""
        with contextlib.suppress(httpx.TransportError):
            return self._posted_once(body, deadline)
        return self._posted_once(body, deadline)

    def _posted_once(self, body: bytes, deadline: float) -> _Response:
        remaining = deadline - monotonic()
        if remaining <= 0:
            raise httpx.PoolTimeout("there is no time left")
        http = self._http = self._http or self._new()
        try:
            with http.stream("POST", self._settings.url, content=body, timeout=remaining) as response:
                return _Response(response.status_code, response.headers, _read(response, deadline))
        except httpx.TransportError:
            self.close()
            raise

    def _new(self) -> httpx.Client:
        proxy = self._settings.proxy
        try:
            context = tls_context(self._settings)
            return httpx.Client(
                headers=self._headers, verify=context, proxy=httpx.Proxy(proxy) if proxy else None, trust_env=False
            )
        except UnusableFile as error:
            raise NotTaken(str(error)) from error
        except (ImportError, ValueError, httpx.InvalidURL):
            # What they say may have the proxy's password in it.
            raise NotTaken("the proxy that the environment names cannot be used") from None


def _read(response: httpx.Response, deadline: float) -> bytes:
    body = b""
    for piece in response.iter_raw():
        body += piece
        if len(body) > _LONGEST_RESPONSE or monotonic() > deadline:
            # Leaving it unread ends the connection.
            return b""
    return body


def _told_in(response: _Response) -> PartialSuccess | None:
    if not response.headers.get("content-type", "").lower().startswith(_PROTOBUF):
        return None
    try:
        return partial_success(response.body)
    except ValueError:
        return None


def _retry_after(headers: httpx.Headers) -> float | None:
    """The seconds to wait (RFC 9110, section 10.2.3); None where it says none."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        seconds = (at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)).timestamp() - time()
    return max(0.0, seconds) if isfinite(seconds) else None


def _why(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time"
    if isinstance(error, (httpx.NetworkError, OSError)):
        return str(error) or type(error).__name__
    # Others quote what was sent.
    return type(error).__name__
