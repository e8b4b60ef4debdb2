"""The management and observability ports: closed but to this machine, to keys with the scope, and to the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Protocol

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pymotor.control_plane.client_certificate import shows_certificate
from pymotor.control_plane.nearness import is_near
from pymotor.coordinator.keys.admittance import KeyHeaders, Refusal, admitted
from pymotor.coordinator.keys.api_key import ApiKey
from pymotor.coordinator.keys.api_key import Scope as KeyScope
from pymotor.coordinator.keys.key_ring import KeyRing
from pymotor.coordinator.keys.key_source import KeySource
from pymotor.coordinator.settings import KeySettings

OPEN_PATHS = frozenset(("/health", "/readiness", "/liveness", "/startup"))
"""For probes, which have no key."""
_SAFE = ("GET", "HEAD")


class Token(Protocol):
    """A secret beside the keys: that of the cluster, or a proxy's."""

    def accepts(self, authorization: str | None) -> bool:
        """Whether the value of an `Authorization` header shows it."""
        ...


class Door:
    """An ASGI application that lets requests through to another one, or answers them itself.

    In come probes; what is asked on this machine; who shows a certificate of the plane; the token; a key that is good
    for `read` (GET, HEAD) or `admin`.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: Token | None,
        ring: KeyRing | None,
        headers: KeyHeaders,
        *,
        anybody_reads: bool,
        open_paths: frozenset[str] = OPEN_PATHS,
    ) -> None:
        """`ring` is None where no keys are asked for. `anybody_reads`: GET and HEAD need nothing; those of `open_paths`
        never do."""
        self._open_paths = open_paths
        self._app = app
        self._token = token
        self._ring = ring
        self._headers = headers
        self._anybody_reads = anybody_reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            if scope["type"] == "http":
                await self._check(scope)
        except Refusal as refusal:
            fields = {"WWW-Authenticate": refusal.challenge.decode()} if refusal.challenge else None
            response = Response(refusal.body(), refusal.status, headers=fields, media_type="application/json")
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        """Raises `Refusal`."""
        reads = scope["method"] in _SAFE
        if reads and (self._anybody_reads or scope["path"] in self._open_paths):
            return
        headers = _by_name(scope, self._headers)
        peer, own = scope.get("client"), scope.get("server")
        if is_near(peer[0] if peer else "", own[0] if own else "", headers):
            return
        if shows_certificate(scope):
            return
        if self._token is not None and self._token.accepts(headers.get("authorization")):
            return
        if self._ring is None:
            raise self._stranger()
        shown = self._headers.key_in(dict(scope["headers"]))
        await admitted(self._ring, shown, KeyScope.READ if reads else KeyScope.ADMIN, self._headers.places)

    def _stranger(self) -> Refusal:
        if self._token is None:
            return Refusal(
                403, "closed_door", "this is for clients on the same machine; for others turn on api_key_config"
            )
        return Refusal(
            401,
            "missing_token",
            "this is for clients on the same machine; others show 'Authorization: Bearer TOKEN' with the cluster's "
            "token, or an API key where api_key_config is on",
            b"Bearer",
        )


class Doors:
    """All doors of a Coordinator, which know the same keys."""

    def __init__(
        self,
        settings: KeySettings | None,
        keys: tuple[ApiKey, ...],
        token: Token | None,
        open_doors: tuple[str, ...],
    ) -> None:
        """`settings` is None where no keys are asked for; at `open_doors` anybody may read."""
        self._headers = KeyHeaders(settings.header_name, settings.key_prefix) if settings is not None else KeyHeaders()
        self._ring = KeyRing(keys) if settings is not None else None
        self._token = token
        self._open = open_doors

    def before(self, app: ASGIApp, name: str, pages: Iterable[str] = ()) -> Door:
        """`app` behind the door of this name; at the paths of `pages` it has nothing to hide."""
        return Door(
            app,
            self._token,
            self._ring,
            self._headers,
            anybody_reads=name in self._open,
            open_paths=OPEN_PATHS.union(pages),
        )

    @contextlib.asynccontextmanager
    async def attended(
        self, source: KeySource | None, publish: Callable[[tuple[ApiKey, ...]], None]
    ) -> AsyncIterator[None]:
        """As long as the block runs, keys that change at the `source` are taken up here and told to `publish`."""
        ring = self._ring
        if ring is None or source is None:
            yield
            return

        def take(keys: tuple[ApiKey, ...]) -> None:
            ring.replace(keys)
            publish(keys)

        following = asyncio.create_task(source.follow(take))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])
            ring.close()


def _by_name(scope: Scope, keys: KeyHeaders) -> Mapping[str, str]:
    """The headers. Raises `Refusal` (400) where one that may have a key comes twice."""
    found: dict[str, str] = {}
    for name, value in Headers(scope=scope).items():
        if name in found and (name == "authorization" or name.encode("latin-1") in keys.names):
            raise Refusal(400, "repeated_header", f"the header {name} must not be repeated")
        found[name] = value
    return found
