"""httpx over TLS whose certificates are renewed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator

import httpx

from pymotor.control_plane.certificate_trouble import why_not
from pymotor.control_plane.tls import ClientTLS


def newest(tls: ClientTLS) -> ssl.SSLContext:
    """For the next connection."""
    tls.renewed()
    return tls.context()


class RenewedTransport(httpx.AsyncBaseTransport):
    """Connections with the newest certificates. Requests under way end with those that they began with.

    Meant for few requests a second: a look is a `stat` of each file.
    """

    def __init__(self, tls: ClientTLS | None, limits: httpx.Limits) -> None:
        """`tls` is asked with each request, and may be others' too; None where no address is https; such requests then
        fail."""
        self._tls = tls
        self._limits = limits
        # Without certificates a context that trusts nobody: the public authorities take 20 ms to load.
        self._context = tls.context() if tls is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._newest = _Counted(self._made())
        self._former: set[_Counted] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        if self._tls is not None:
            await self._renew(newest(self._tls))
            if self._tls.peer_name:
                request.extensions = {**request.extensions, "sni_hostname": self._tls.peer_name}
        used = self._newest
        used.running += 1
        try:
            response = await used.transport.handle_async_request(request)
        except ssl.SSLError as error:
            # A server tells what it has against our certificate only after the handshake, and httpx lets that through.
            await self.done(used)
            raise httpx.ReadError(why_not(error), request=request) from error
        except BaseException:
            await self.done(used)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Stream(response.stream, self, used)
        return response

    async def aclose(self) -> None:
        """See httpx."""
        for one in (*self._former, self._newest):
            await one.transport.aclose()
        self._former.clear()

    async def _renew(self, context: ssl.SSLContext) -> None:
        if context is self._context:
            return
        former, self._context = self._newest, context
        self._newest = _Counted(self._made())
        if former.running:
            self._former.add(former)
        else:
            await former.transport.aclose()

    async def done(self, used: _Counted) -> None:
        """A request is answered, or given up."""
        used.running -= 1
        if not used.running and used in self._former:
            self._former.discard(used)
            await used.transport.aclose()

    def _made(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._context, limits=self._limits, trust_env=False)


class _Counted:
    """Connections that began with the same certificates."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.running = 0


class _Stream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, owner: RenewedTransport, used: _Counted) -> None:
        self._stream = stream
        self._owner = owner
        self._used: _Counted | None = used

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            async for part in self._stream:
                yield part
        except ssl.SSLError as error:
            raise httpx.ReadError(why_not(error)) from error

    async def aclose(self) -> None:
        used, self._used = self._used, None
        try:
            await self._stream.aclose()
        finally:
            if used is not None:
                await self._owner.done(used)
