"""HTTP clients of control planes: whom they trust."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import httpx

from pymotor.control_plane.tls import ClientTLS
from pymotor.control_plane.tls_transport import RenewedTransport


class Trust(NamedTuple):
    """How a part is known that speaks TLS."""

    context: ssl.SSLContext
    name: str = ""
    """What its certificate is to name; empty: the host that is dialled."""


class PlainURLError(ValueError):
    """An address would be dialled without TLS though the plane speaks it; the message says what to write."""


def refuse_plain(urls: Iterable[str]) -> None:
    """For the management plane where it speaks TLS. Raises `PlainURLError` for a URL with http: by it the token would
    cross the network in clear."""
    for url in urls:
        if not url.startswith("https:"):
            raise PlainURLError(f"{url} is plain HTTP while mgmt_tls_config is on; write https:")


def asking_client(
    tls: ClientTLS | None,
    *,
    timeout: httpx.Timeout | float,
    headers: Mapping[str, str] | None = None,
    limits: httpx.Limits | None = None,
    urls: Iterable[str] = (),
) -> httpx.AsyncClient:
    """A client for as long as its owner likes; the caller closes it. `tls`: renewed certificates, None for plain HTTP,
    or for the system's where one of `urls` has https:. `timeout` in seconds."""
    limits = limits or httpx.Limits()
    if tls is not None:
        transport = RenewedTransport(tls, limits)
        return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, headers=headers)
    verify = _system(urls)
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False, headers=headers, verify=verify)


def verb_client(
    url: str, trusted: Trust | None, *, timeout: float, headers: Mapping[str, str] | None = None
) -> httpx.Client:
    """A client for asking `url`, for a command that soon ends; the caller closes it. `trusted`: None for plain HTTP, or
    the system's certificates. `timeout` in seconds."""
    context = trusted.context if trusted is not None else _system((url,))
    transport = _NamedTransport(trusted.name if trusted is not None else "", verify=context, trust_env=False)
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, headers=headers)


class _NamedTransport(httpx.HTTPTransport):
    def __init__(self, name: str, *, verify: ssl.SSLContext, trust_env: bool) -> None:
        super().__init__(verify=verify, trust_env=trust_env)
        self._name = name

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._name:
            request.extensions = {**request.extensions, "sni_hostname": self._name}
        return super().handle_request(request)


def _system(urls: Iterable[str]) -> ssl.SSLContext:
    """The system's certificates, read only where one of the URLs needs them, since that takes long."""
    encrypted = any(url.startswith("https:") for url in urls)
    return ssl.create_default_context() if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
