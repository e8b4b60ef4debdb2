"""Kubernetes' REST API, as far as a watch of a whole kind of objects needs it: list, then watch from there."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the token and the authority's certificate into each pod."""
_PAGE = 500
_GONE = 410


class ClusterError(Exception):
    """The API server cannot be asked, or answers nonsense; the message says what happened."""


class TooOld(ClusterError):
    """The resource version is no longer kept: the whole has to be listed anew."""


class ClusterAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API server is and what it is shown."""

    url: str
    """`https://host:port`, without a path."""
    token_file: Path | None = None
    """Read again for each request, since Kubernetes renews it; None: no token."""
    authority_file: Path | None = None
    """Certificates of who vouches for the server; None: the system's."""


def access_from_environment(
    variables: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT
) -> ClusterAccess | None:
    """What a pod is given by Kubernetes; None outside a cluster."""
    host, port = variables.get("KUBERNETES_SERVICE_HOST", ""), variables.get("KUBERNETES_SERVICE_PORT", "443")
    token = service_account / "token"
    if not host or not token.is_file():
        return None
    authority = service_account / "ca.crt"
    return ClusterAccess(
        url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        token_file=token,
        authority_file=authority if authority.is_file() else None,
    )


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """All objects of a kind at one moment."""

    objects: tuple[Mapping[str, Any], ...]
    version: str
    """The resource version from which to watch."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a watch."""

    kind: str
    """`ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`."""
    object: Mapping[str, Any]
    version: str
    """The resource version from which to go on; empty where the object has none."""


class ClusterAPI:
    """Lists and watches; an async context manager that closes its connections."""

    def __init__(self, access: ClusterAccess, *, watch_seconds: int = 60) -> None:
        """`watch_seconds`: for how long the server lets one watch last, so that a connection that died without a
        word is noticed within a quarter more than that. Raises `ClusterError` when the authority's file cannot be
        used."""
        self._access = access
        self._watch_seconds = watch_seconds
        try:
            authority = access.authority_file
            context = ssl.create_default_context(cafile=str(authority) if authority is not None else None)
        except (OSError, ssl.SSLError) as error:
            raise ClusterError(f"{access.authority_file} cannot be used: {error}") from error
        timeout = httpx.Timeout(10.0, read=watch_seconds * 1.25 + 5.0)
        # A proxy of the environment is for the outside.
        self._client = httpx.AsyncClient(base_url=access.url, verify=context, timeout=timeout, trust_env=False)

    async def __aenter__(self) -> ClusterAPI:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def list(self, path: str) -> Listed:
        """All objects under a path, page by page. Raises `ClusterError`."""
        objects: list[Mapping[str, Any]] = []
        query: dict[str, str] = {"limit": str(_PAGE)}
        while True:
            try:
                answer = await self._client.get(path, params=query, headers=self._headers())
            except httpx.HTTPError as error:
                raise ClusterError(f"{path}: {_words(error)}") from error
            _check(path, answer.status_code, answer.text)
            document = _decoded(path, answer.content)
            metadata, items = document.get("metadata"), document.get("items")
            if not isinstance(metadata, Mapping) or not isinstance(items, list | None):
                raise ClusterError(f"{path}: the answer is no list")
            objects += [item for item in items or () if isinstance(item, Mapping)]
            if not metadata.get("continue"):
                version = metadata.get("resourceVersion")
                if not isinstance(version, str) or not version:
                    raise ClusterError(f"{path}: the list has no resource version")
                return Listed(objects=tuple(objects), version=version)
            query["continue"] = str(metadata["continue"])

    async def watch(self, path: str, version: str) -> AsyncGenerator[Seen, None]:
        """The changes after a resource version, until the server ends the watch. Raises `TooOld`, `ClusterError`."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._watch_seconds),
        }
        try:
            async with self._client.stream("GET", path, params=query, headers=self._headers()) as answer:
                if answer.status_code != httpx.codes.OK:
                    _check(path, answer.status_code, (await answer.aread()).decode(errors="replace"))
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield _seen(path, line)
        except httpx.HTTPError as error:
            raise ClusterError(f"{path}: {_words(error)}") from error

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        token_file = self._access.token_file
        if token_file is not None:
            try:
                headers["Authorization"] = f"Bearer {token_file.read_text(encoding='ascii').strip()}"
            except (OSError, UnicodeDecodeError) as error:
                raise ClusterError(f"{token_file} cannot be read: {error}") from error
        return headers


def _seen(path: str, line: str) -> Seen:
    event = _decoded(path, line)
    kind, subject = str(event.get("type", "")), event.get("object")
    if not isinstance(subject, Mapping):
        raise ClusterError(f"{path}: an event without an object")
    if kind == "ERROR":
        if subject.get("code") == _GONE:
            raise TooOld(f"{path}: {subject.get('message', 'the resource version is too old')}")
        raise ClusterError(f"{path}: {subject.get('message', 'an error without a message')}")
    metadata = subject.get("metadata")
    version = metadata.get("resourceVersion", "") if isinstance(metadata, Mapping) else ""
    return Seen(kind=kind, object=subject, version=str(version))


def _check(path: str, status: int, text: str) -> None:
    if status == _GONE:
        raise TooOld(f"{path}: HTTP {status}")
    if status != httpx.codes.OK:
        raise ClusterError(f"{path}: HTTP {status} {text[:200].strip()}".rstrip())


def _decoded(path: str, text: str | bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"{path}: no JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise ClusterError(f"{path}: no JSON object")
    return document


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
