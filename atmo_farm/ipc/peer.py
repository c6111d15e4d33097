"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct


def peer_uid(sock: socket.socket) -> int:
    """The user id that the kernel noted when the connection was made."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
