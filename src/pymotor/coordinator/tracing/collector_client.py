"""Sends requests of OTLP over HTTP to one collector (https://opentelemetry.io/docs/specs/otlp/#otlphttp).

What may pass, no connection and the statuses 429, 502, 503 and 504, is tried again: after what `Retry-After` says, else
after a second and then twice as long each time, as long as there is time; at once where the collector has closed a
connection that was idle. Nothing is sent again once a status says that it was taken.
"""

from __future__ import annotations

import gzip
import random
import threading
import zlib
from datetime import timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from time import monotonic, time

import h11
import httpcore
import httpx

from pymotor.coordinator.tracing.bounded_network import BoundedNetwork
from pymotor.coordinator.tracing.collector_settings import PROXY_SCHEMES, CollectorSettings
from pymotor.coordinator.tracing.partial_success import PartialSuccess, partial_success
from pymotor.coordinator.tracing.tls_files import UnusableFile, tls_context

TRIES = 6
_PASSING = frozenset((429, 502, 503, 504))
_PASSING_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.RemoteProtocolError,
    httpcore.ProxyError,
)
_UNUSABLE_ERRORS = (
    httpcore.LocalProtocolError,
    httpcore.UnsupportedProtocol,
    h11.ProtocolError,
    httpx.InvalidURL,
    ValueError,
)
_JITTER = 0.2
_LEAST_PAUSE = 0.1
_IDLE_SECONDS = 5.0
_LONGEST_RESPONSE = 65_536
_PROTOBUF = "application/x-protobuf"
_GZIP_LEVEL = 6


class NotTaken(Exception):
    """A collector has not taken what it was sent; the message says why, and nothing secret."""


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


class CollectorClient:
    """Speaks to one collector, in one thread; `close` it."""

    def __init__(self, settings: CollectorSettings, tries: int = TRIES) -> None:
        """A batch is posted so often at most."""
        self._settings = settings
        self._tries = tries
        self._headers = {
            b"accept": b"*/*",
            b"accept-encoding": b"identity",
            b"connection": b"keep-alive",
            b"content-type": _PROTOBUF.encode(),
            b"user-agent": f"PyMotor-OTLP-Exporter-Python/{pymotor_version()}".encode(),
        }
        if settings.compression != "none":
            self._headers[b"content-encoding"] = settings.compression.encode()
        self._headers.update(settings.headers)
        self._network = BoundedNetwork()
        self._pool: httpcore.ConnectionPool | None = None
        self._given_up = threading.Event()

    def send(self, request: bytes) -> PartialSuccess | None:
        """Have these spans taken; returns what the collector has against them all the same. Raises `NotTaken`."""
        body = self._compressed(request)
        deadline = monotonic() + self._settings.seconds
        why = "there is no time left"
        for number in range(self._tries):
            pause = 2**number * _jitter()
            known = self._network.opened
            try:
                response = self._posted(body, deadline)
            except _PASSING_ERRORS as error:
                why = _why(error)
                late = isinstance(error, httpcore.TimeoutException)
                if known == self._network.opened and not self._network.heard and not late:
                    # An idle connection was closed by the collector meanwhile.
                    pause = 0.0
            else:
                if 200 <= response.status < 300:
                    return _told_in(response)
                why = f"it answers {response.status}"
                if response.status not in _PASSING:
                    raise NotTaken(why)
                asked = _retry_after(response.headers)
                pause = pause if asked is None else max(asked, _LEAST_PAUSE * _jitter())
            if number == self._tries - 1 or monotonic() + pause > deadline or self._given_up.wait(pause):
                break
        raise NotTaken(why)

    def give_up(self) -> None:
        """There is no further try from now on, and the one that goes on ends. From any thread."""
        self._given_up.set()
        self._network.cut()

    def close(self) -> None:
        """End the connection."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _compressed(self, request: bytes) -> bytes:
        compression = self._settings.compression
        if compression == "gzip":
            return gzip.compress(request, _GZIP_LEVEL)
        return zlib.compress(request) if compression == "deflate" else request

    def _posted(self, body: bytes, deadline: float) -> _Response:
        """Raises `NotTaken` and `_PASSING_ERRORS`."""
        self._network.begin(deadline)
        try:
            url = httpx.URL(self._settings.url)
            target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
            pool = self._pool = self._pool or self._new()
            headers = [(b"host", url.netloc), *self._headers.items()]
            with pool.stream("POST", target, headers=headers, content=body) as response:
                return _Response(response.status, httpx.Headers(response.headers), self._read(response))
        except _PASSING_ERRORS:
            # Certificates may have changed: the next connection reads them again.
            self.close()
            raise
        except _UNUSABLE_ERRORS as error:
            self.close()
            # What they say may quote what was to be sent.
            raise NotTaken(f"its URL or a header cannot be used ({type(error).__name__})") from None

    def _read(self, response: httpcore.Response) -> bytes:
        """The body; empty when it breaks off or is too long: what became of the spans says the status."""
        body = b""
        try:
            for piece in response.iter_stream():
                body += piece
                if len(body) > _LONGEST_RESPONSE:
                    # Leaving it unread ends the connection.
                    return b""
        except _PASSING_ERRORS:
            return b""
        return body

    def _new(self) -> httpcore.ConnectionPool:
        try:
            context = tls_context(self._settings)
        except UnusableFile as error:
            raise NotTaken(str(error)) from error
        if not self._settings.proxy:
            return httpcore.ConnectionPool(
                ssl_context=context, keepalive_expiry=_IDLE_SECONDS, network_backend=self._network
            )
        try:
            proxy = httpx.Proxy(self._settings.proxy)
            url = proxy.url
            if url.scheme not in PROXY_SCHEMES:
                raise ValueError(url.scheme)
            return httpcore.HTTPProxy(
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                proxy_auth=proxy.raw_auth,
                ssl_context=context,
                keepalive_expiry=_IDLE_SECONDS,
                network_backend=self._network,
            )
        except (ValueError, httpx.InvalidURL):
            # What they say may have the proxy's password in it.
            raise NotTaken("the proxy that the environment names cannot be used") from None


def _jitter() -> float:
    return random.uniform(1 - _JITTER, 1 + _JITTER)


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
            seconds = (at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)).timestamp() - time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if isfinite(seconds) else None


def _why(error: Exception) -> str:
    if isinstance(error, httpcore.TimeoutException):
        return "it does not answer in time"
    if isinstance(error, httpcore.NetworkError):
        return str(error) or type(error).__name__
    # Others quote what was sent.
    return type(error).__name__
