"""The last clients of a listening socket: whoever has begun to connect gets in, and nobody after them.

When a socket stops to listen the kernel resets whom it has connected and nobody accepted, and those whose handshake
comes to its end later: they count as connected by then, and may have sent their request.
"""

from __future__ import annotations

import array
import logging
import socket
import struct

logger = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_FLAGS_AT, _SYN, _SYN_AND_ACK, _ALL = 13, 0x02, 0x12, 0xFFFFFFFF
_WITHOUT_NEW = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (_LOAD_BYTE, 0, 0, _FLAGS_AT),
        (_AND, 0, 0, _SYN_AND_ACK),
        (_JUMP_IF_EQUAL, 0, 1, _SYN),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, _ALL),
    )
)
"""A classic BPF program that drops segments that ask for a connection; it sees TCP's header first."""


def pass_over_new(listener: socket.socket) -> None:
    """Have the kernel drop attempts to connect that begin from now on, while those under way go on.

    Their clients try again after a second and are refused then, or meet whoever listens by that time. A system without
    such filters goes on as before, which its log says.
    """
    program = array.array("B", _WITHOUT_NEW)
    described = struct.pack("HP", len(_WITHOUT_NEW) // 8, program.buffer_info()[0])
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
    except OSError as error:
        logger.warning("clients that connect just as this process stops to listen may be reset: %s", error)


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Whoever is connected and waits to be accepted; `listener` does not block from now on."""
    listener.setblocking(False)
    accepted: list[socket.socket] = []
    while True:
        try:
            client, _address = listener.accept()
        except ConnectionAbortedError:
            continue
        except BlockingIOError:
            return accepted
        except OSError as error:
            logger.warning("clients that wait are reset, as no more can be accepted: %s", error)
            return accepted
        client.setblocking(False)
        accepted.append(client)
