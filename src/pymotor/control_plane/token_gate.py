"""Nobody comes in who shows neither the cluster token nor a certificate of the plane."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pymotor.control_plane.client_certificate import shows_certificate
from pymotor.control_plane.nearness import calls_this_machine, is_near
from pymotor.control_plane.token import ClusterToken


class TokenGate:
    """Before an application: answers requests without token and certificate itself; some paths are open to
    everybody."""

    def __init__(
        self,
        app: ASGIApp,
        token: ClusterToken | None,
        open_paths: Collection[str],
        refusal: Callable[[], Response],
        *,
        near: bool = False,
    ) -> None:
        """Without a token everybody is let in who calls this machine by an address, or by a name that is surely its
        own: then only this machine may reach the port. `refusal` makes the answer for those that show no token.
        `near`: whoever asks on this machine is let in too."""
        self._near = near
        self._app = app
        self._token = token
        self._open_paths = open_paths
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths and not self._lets_in(scope):
            refusal = self._refusal() if self._token is not None else _steered()
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        if self._token is None:
            return shows_certificate(scope) or calls_this_machine(dict(Headers(scope=scope)))
        if self._near and _is_near(scope):
            return True
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return shows_certificate(scope) or self._token.accepts(shown.decode("latin-1"))


def _steered() -> Response:
    told = (
        "without a cluster token this is for clients that call this machine by an address, localhost or its own name, "
        "and for no page of another site"
    )
    return JSONResponse({"error": told}, 403)


def _is_near(scope: Scope) -> bool:
    peer, own = scope.get("client"), scope.get("server")
    return is_near(peer[0] if peer else "", own[0] if own else "", dict(Headers(scope=scope)))
