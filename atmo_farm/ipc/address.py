"""Where the monitor's HTTP listens: bound by the master before the first fork, so that it outlives every monitor."""

from __future__ import annotations

import errno
import logging
import socket
import stat
from pathlib import Path

from atmo_farm import log
from atmo_farm.errors import CannotStart
from atmo_farm.ipc.listener import SocketFile

logger = logging.getLogger("atmo_farm.ipc")

OFF = "off"
UNIX = "unix:"
DEFAULT = ("127.0.0.1", 9464)
"""The port of exporters of metrics by OpenTelemetry's convention."""

BACKLOG = 128


class Listener:
    """A listening socket; `address` is as people write it: `127.0.0.1:9464`, `unix:/run/farm/http.sock`."""

    def __init__(self, sock: socket.socket, address: str, file: SocketFile | None = None):
        self.socket = sock
        self.address = address
        self._file = file
        sock.listen(BACKLOG)
        sock.setblocking(False)

    def close(self) -> None:
        """In this process alone."""
        self.socket.close()

    def end(self) -> None:
        """For good."""
        self.close()
        if self._file is not None:
            self._file.remove()


def listen(wanted: str | None) -> Listener | None:
    """`wanted` is the setting `monitor.address`; None where it is off.

    Not set: the default port, or with a warning any. CannotStart when a set one cannot be had.
    """
    if wanted == OFF:
        return None
    if wanted is None:
        return _default()
    try:
        if wanted.startswith(UNIX):
            return _unix(Path(wanted.removeprefix(UNIX)))
        host, _, port = wanted.rpartition(":")
        return _tcp(host.strip("[]"), int(port))
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror or error}"
        raise CannotStart(f"monitor.address {wanted} {what}; choose another, or `off`") from error


def _default() -> Listener | None:
    host, port = DEFAULT
    try:
        return _tcp(host, port)
    except OSError as error:
        reason = error.strerror
    try:
        found = _tcp(host, 0)
    except OSError:
        found = None
    instead = found.address if found is not None else "nowhere"
    text = f"metrics and health are not at {host}:{port} (setting monitor.address)"
    log.event(logger, logging.WARNING, text, reason=reason, instead=instead)
    return found


def _tcp(host: str, port: int) -> Listener:
    """OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        host, port = sock.getsockname()[:2]
        return Listener(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except OSError:
        sock.close()
        raise


def _unix(path: Path) -> Listener:
    """OSError. A socket that a dead farm has left there is replaced, and nothing else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(path))
        raise OSError(errno.EADDRINUSE, "in use")
    except (FileNotFoundError, ConnectionRefusedError):
        file = SocketFile(path)
    return Listener(file.socket, f"{UNIX}{path}", file)
