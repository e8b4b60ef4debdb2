"""Before the gateway: who is let in, and how often. Only there where it is asked for.

Paths are compared as the gateway compares them, byte for byte with nothing decoded, so that a path which needs no key
is the one that is answered. The metaserver's paths need none: they have a secret of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.surface import CHAT
from pymotor.coordinator.callbacks import CALLBACK_PATH
from pymotor.coordinator.flows.responses import JSON, ResponseHeads
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.known_heads import KnownHead
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.keys.admittance import KeyHeaders, Refusal, admit, found
from pymotor.coordinator.keys.api_key import ApiKey, Scope
from pymotor.coordinator.keys.key_ring import KeyRing, expired
from pymotor.coordinator.limits.meter import UNLIMITED
from pymotor.coordinator.limits.rate_limits import RateLimits
from pymotor.coordinator.limits.usage import KeyUsage
from pymotor.coordinator.plain_answers import path_label, retry_after
from pymotor.coordinator.request_log import RequestLog
from pymotor.coordinator.settings import KeySettings

_MODELS = b"/v1/models"
_SAFE = (b"GET", b"HEAD")


class Guard:
    """Hands requests on that may come in, and answers the others."""

    __slots__ = (
        "_handle",
        "_headers",
        "_heads",
        "_instruments",
        "_limits",
        "_request_log",
        "_ring",
        "_unlimited",
        "_usage",
        "_without_key",
    )

    def __init__(
        self,
        handle: Callable[[ClientConnection, ClientRequest], Coroutine[Any, Any, None]],
        heads: ResponseHeads,
        instruments: Instruments,
        *,
        keys: KeySettings | None = None,
        ring: KeyRing | None = None,
        usage: KeyUsage | None = None,
        limits: RateLimits | None = None,
        unlimited: tuple[str, ...] = (),
        request_log: RequestLog | None = None,
    ) -> None:
        """`handle` answers what is let in. `keys`, `ring` and `usage` go together; without them nobody needs a key.
        `unlimited` are paths that `limits` do not concern. `request_log` hears of those that are not let in."""
        self._request_log = request_log
        self._handle = handle
        self._heads = heads
        self._instruments = instruments
        self._ring = ring
        self._usage = usage
        self._headers = KeyHeaders(keys.header_name, keys.key_prefix) if keys is not None else KeyHeaders()
        self._without_key = frozenset(path.encode() for path in keys.skip_paths) if keys is not None else frozenset()
        self._limits = limits
        self._unlimited = frozenset(path.encode() for path in unlimited)

    def handle(self, client: ClientConnection, request: ClientRequest) -> Coroutine[Any, Any, None]:
        """What answers one request; not a coroutine itself where the key is one that was seen before, since a layer
        more costs each request."""
        head = request.head
        try:
            if head is None or head.vouchers is None or not self._let_in_again(request, head):
                path = request.path
                if path.startswith(CALLBACK_PATH) or self._is_preflight(request):
                    return self._handle(client, request)
                if self._ring is not None and path not in self._without_key:
                    shown = self._headers.key_in(request.headers)
                    key = self._ring.known(shown)
                    if key is None:
                        return self._let_in_unknown(client, request, self._ring, shown)
                    self._let_in(request, key)
                    if head is not None:
                        head.key = key
                        head.vouchers = (self, self._ring.version)
            if self._limits is not None:
                self._take(request, self._limits)
        except ApiError as error:
            return self._refused(client, request, error)
        return self._handle(client, request)

    def _let_in_again(self, request: ClientRequest, head: KnownHead) -> bool:
        """Whether the key in this head was found good here, among the keys there are now, and has not expired: so it
        is for this request, since its path and method are in the head too. Then it is let in."""
        key, ring, usage = head.key, self._ring, self._usage
        if head.vouchers is None or key is None or ring is None or usage is None:
            return False
        guard, keys = head.vouchers
        if guard is not self or keys is not ring.version or (key.expires_at is not None and expired(key)):
            return False
        usage.let_in(key.name)
        request.key = key
        return True

    async def _let_in_unknown(
        self, client: ClientConnection, request: ClientRequest, ring: KeyRing, shown: bytes
    ) -> None:
        """Answer a request whose key has to be compared."""
        try:
            self._let_in(request, await found(ring, shown, self._headers.places))
            if self._limits is not None:
                self._take(request, self._limits)
        except ApiError as error:
            self._refuse(client, request, error)
            return
        await self._handle(client, request)

    def _let_in(self, request: ClientRequest, key: ApiKey) -> None:
        """The request comes with that key. Raises `Refusal`."""
        lists = request.method in _SAFE and request.path.startswith(_MODELS)
        admit(key, Scope.INFERENCE, Scope.READ if lists else None)
        assert self._usage is not None
        self._usage.let_in(key.name)
        request.key = key

    def _take(self, request: ClientRequest, limits: RateLimits) -> None:
        """It counts against the limits. Raises `ApiError`."""
        if request.path in self._unlimited:
            request.charge = UNLIMITED
        else:
            limits.take_request(request.key)

    def _is_preflight(self, request: ClientRequest) -> bool:
        """Whether it is a browser's question whether a page may ask; it never has a key."""
        return request.method == b"OPTIONS" and self._heads.preflight(request) is not None

    async def _refused(self, client: ClientConnection, request: ClientRequest, error: ApiError) -> None:
        self._refuse(client, request, error)

    def _refuse(self, client: ClientConnection, request: ClientRequest, error: ApiError) -> None:
        surface = SURFACES.get(request.path)
        if isinstance(error, Refusal):
            extra = error.header_lines
            assert self._usage is not None
            self._usage.refused(error.reason)
        else:
            extra = b""
            self._instruments.rejected("rate_limit")
        extra += retry_after(error)
        body = (surface or CHAT).refusal(error)
        label = path_label(request.path)
        seconds = monotonic() - request.received_at
        self._instruments.request(label, error.status, seconds)
        if self._request_log is not None:
            self._request_log.note(client, request, label, error.status, seconds, reason=error.detail.code or "")
        head = self._heads.whole(request, error.status, JSON, len(body), (), extra)
        client.respond(head, b"" if request.method == b"HEAD" else body)
