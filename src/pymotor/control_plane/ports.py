"""The ports that a part listens on: taken once, and held as long as it lives."""

from __future__ import annotations

import errno
import socket

# Without SO_REUSEADDR the connections of a former run that wait for their end would hold the port. Where the
# holder of a shared port does without, a probe notices it even before anyone listens.
_ALONE = (socket.SO_REUSEADDR,)
_SHARED = (socket.SO_REUSEPORT,)


class PortError(Exception):
    """A port cannot be listened on; the message says why and what to do."""


def listen_alone(host: str, port: int, option: str) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free one) and shares them with nobody.

    Raises `PortError`, naming the command line's `option` for the port.
    """
    listening = _bound(host, port, option, _ALONE)
    listening.listen()
    return listening


def hold_shared(host: str, port: int, option: str) -> socket.socket:
    """A socket that keeps `host` and `port` (0: any free one) for sockets with SO_REUSEPORT of this user.

    It never listens, so no connection is given to it; it keeps others away while no worker listens. That the
    port is free is seen by taking it alone first: a port which another gateway of the same user shares among its
    own workers would else be shared with that one. Raises `PortError`, naming the command line's `option`.
    """
    with _bound(host, port, option, _ALONE) as probe:
        taken = probe.getsockname()[1]
    try:
        return _bound(host, taken, option, _SHARED)
    except PortError:
        # Ended connections that were another program's: passed over only by a socket that has both options.
        return _bound(host, taken, option, _ALONE + _SHARED)


def url_of(bound: socket.socket, *, secure: bool = False) -> str:
    """`http://host:port` of a bound socket, `https://` where it is `secure`."""
    host, port = bound.getsockname()[:2]
    return http_url(host, port, secure=secure)


def http_url(host: str, port: int, *, secure: bool = False) -> str:
    """`http://host:port`, or `https://`; an IPv6 address gets its brackets."""
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _bound(host: str, port: int, option: str, socket_options: tuple[int, ...]) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise PortError(f"host {host!r} cannot be resolved: {error}; give an address with --host") from error
    bound = socket.socket(family, kind, protocol)
    try:
        for socket_option in socket_options:
            bound.setsockopt(socket.SOL_SOCKET, socket_option, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise PortError(_reason(error, host, port, option)) from error
    return bound


def _reason(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use; stop the program that listens on it, or choose another port with {option}"
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; choose one from 1024 on with {option}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; give another one with --host"
    return f"cannot listen on {host} port {port} ({option}): {error}"
