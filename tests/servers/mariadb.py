"""Debian's MariaDB 10.11: a data folder of its own for each server, made from a template that is initialised once.

Who may come in, on every server here: `trusted` without a password and with every privilege, `atmo` (all of database
`atmo`) with PASSWORD.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import ServerProcess, free_port

ACCOUNT = "nobody"
PASSWORD = "s3cret'canary of märia\\db"
DATABASE = "atmo"

_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--performance-schema=off",
    "--character-set-server=utf8mb4",
    "--default-time-zone=-05:00",
    "--innodb-buffer-pool-size=24M",
    "--innodb-log-buffer-size=2M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-fast-shutdown=2",
    "--innodb-lock-wait-timeout=60",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=8M",
    "--max-connections=60",
    "--max-connect-errors=1000000",
    "--max-allowed-packet=64M",
)
_SMALL_FILES = ("--innodb-log-file-size=8M", "--innodb-data-file-path=ibdata1:8M:autoextend")
_FIRST = f"""
CREATE USER trusted;
GRANT ALL ON *.* TO trusted WITH GRANT OPTION;
CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4;
CREATE USER atmo IDENTIFIED BY '{PASSWORD.replace(chr(92), chr(92) * 2).replace("'", "''")}';
GRANT ALL ON {DATABASE}.* TO atmo;
"""


class MariaDbServer(ServerProcess):
    """A MariaDB server on 127.0.0.1 with a free port, and a Unix socket `socket`.

    `options` are mariadbd's own, put behind those that every server here has. `tls`: a folder of `certificates.make`;
    the server then takes connections with TLS too. The files lie in a folder of /tmp: pytest's own belong to root
    alone, and MariaDB should not run as root. `remove` deletes them.
    """

    def __init__(self, options: Sequence[str] = (), tls: Path | None = None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="atmo-farm-maria-"))
        data = folder / "data"
        shutil.copytree(_template(), data)
        if tls is not None:
            for name in ("server.pem", "server.key", "ca.pem"):
                shutil.copy(tls / name, data)
            options = (
                *options,
                f"--ssl-cert={data / 'server.pem'}",
                f"--ssl-key={data / 'server.key'}",
                f"--ssl-ca={data / 'ca.pem'}",
            )
        _give_away(folder)
        self.socket = folder / "socket"
        port = free_port()
        command = (
            _binary("mariadbd"),
            "--no-defaults",
            *_OPTIONS,
            *_SMALL_FILES,
            f"--datadir={data}",
            f"--socket={self.socket}",
            f"--pid-file={folder / 'pid'}",
            f"--tmpdir={folder}",
            f"--port={port}",
            *options,
        )
        super().__init__(command, port, folder, ACCOUNT)

    def start(self, ready_within_s: float = 30.0) -> None:
        """As every server; recovery after a kill takes some seconds."""
        super().start(ready_within_s)

    def dsn(self, user: str = "trusted", password: str = "", database: str = DATABASE, query: str = "") -> str:
        """As it stands under `connectionString`."""
        return f"{user}{password and ':' + password}@tcp(127.0.0.1:{self.port})/{database}{query and '?' + query}"

    def _accepts(self) -> bool:
        """On its socket, which comes after its port."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def remove(self) -> None:
        """End it and delete its files."""
        self.kill()
        shutil.rmtree(self.folder)


@functools.cache
def _template() -> Path:
    """A data folder with the users and the database, made once; deleted when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="atmo-farm-maria-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _give_away(folder)
    data = folder / "data"
    where = ("--no-defaults", f"--datadir={data}", *_SMALL_FILES)
    _run("mariadb-install-db", *where, "--auth-root-authentication-method=normal", "--skip-test-db")
    _run("mariadbd", *where, "--bootstrap", stdin="FLUSH PRIVILEGES;\n" + _FIRST)
    return data


def _run(program: str, *arguments: str, stdin: str = "") -> None:
    account = ACCOUNT if os.geteuid() == 0 else None
    done = subprocess.run(
        [_binary(program), *arguments], input=stdin.encode(), capture_output=True, check=False, user=account, cwd="/"
    )
    assert done.returncode == 0, f"{program}: {done.stdout.decode()}{done.stderr.decode()}"


def _binary(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    assert found, f"{name} is missing: apt-get install mariadb-server"
    return found


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, ACCOUNT)
