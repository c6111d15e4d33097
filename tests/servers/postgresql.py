"""Debian's PostgreSQL 15: a cluster in a folder of its own, made from a template that is initialised once.

Who may come in, on every server: `trusted` without a password, and `atmo`, who owns the databases, with PASSWORD.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.servers.process import ServerProcess, free_port

BINARIES = Path("/usr/lib/postgresql/15/bin")
ACCOUNT = "nobody"
PASSWORD = "s3cret'canary of post\\gres"
DATABASE = "atmo"

_CONFIG = """
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 60
max_wal_size = 256MB
autovacuum = off
log_min_messages = fatal
log_min_error_statement = panic
timezone = 'America/New_York'
"""
_ACCESS = """
local all all trust
{kind} all trusted 127.0.0.1/32 trust
{kind} all all 127.0.0.1/32 scram-sha-256
"""
_FIRST = f"""
CREATE ROLE trusted SUPERUSER LOGIN;
CREATE ROLE atmo LOGIN PASSWORD '{PASSWORD.replace("'", "''")}';
CREATE DATABASE {DATABASE} OWNER atmo;
CREATE DATABASE ascii OWNER atmo ENCODING 'SQL_ASCII' TEMPLATE template0;
"""


class PostgresServer(ServerProcess):
    """A PostgreSQL server on 127.0.0.1 with a free port, and a Unix socket in `folder`.

    `tls`: a folder of `certificates.make`; the server then refuses connections without TLS. The files lie in a folder
    of /tmp: pytest's own belong to root alone, and PostgreSQL refuses to be root. `remove` deletes them.
    """

    def __init__(self, config: str = "", tls: Path | None = None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="atmo-farm-pg-"))
        self._data = folder / "data"
        shutil.copytree(_template(), self._data)
        port = free_port()
        if tls is not None:
            for name in ("server.pem", "server.key", "ca.pem"):
                shutil.copy(tls / name, self._data)
            (self._data / "server.key").chmod(0o600)
            config += "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.pem'\n"
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{_CONFIG}\nport = {port}\nunix_socket_directories = '{folder}'\n{config}")
        (self._data / "pg_hba.conf").write_text(_ACCESS.format(kind="host" if tls is None else "hostssl"))
        _give_away(folder)
        super().__init__((str(_binary("postgres")), "-D", str(self._data)), port, folder, ACCOUNT)

    def url(self, user: str = "trusted", password: str = "", database: str = DATABASE, query: str = "") -> str:
        """As it stands under `connectionString`."""
        return f"postgres://{user}{password and ':' + _quoted(password)}@127.0.0.1:{self.port}/{database}?{query}"

    def kill(self) -> None:
        """SIGKILL to all of its processes, before one can tell its client; all of them are gone afterwards."""
        pids = self._pids()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            _signal(pids, number)
        super().kill()
        while any(Path(f"/proc/{pid}").exists() for pid in pids):  # their shared memory must be free for the next start
            time.sleep(0.001)

    def stop(self, within_s: float = 10.0) -> None:
        """A fast shutdown: SIGTERM would wait for the clients."""
        if self.running:
            _signal(self._pids(), signal.SIGCONT)
            os.kill(self.pid, signal.SIGINT)
        super().stop(within_s)

    def pause(self) -> None:
        """SIGSTOP to all of its processes."""
        _signal(self._pids(), signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to all of them."""
        _signal(self._pids(), signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self.folder)

    def _accepts(self) -> bool:
        """Its port listens while it still starts up; postmaster.pid says more (its pid first, its state last)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and lines[-1].strip() == "ready"

    def _pids(self) -> list[int]:
        if not self.running:
            return []
        return [self.pid, *map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())]


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


@functools.cache
def _template() -> Path:
    """A cluster with the users and databases, made once; deleted when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="atmo-farm-pg-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _give_away(folder)
    data = folder / "data"
    _run("initdb", "-D", str(data), "--no-sync", "-A", "trust", "-E", "UTF8", "--locale=C", "-U", "postgres")
    for line in filter(None, _FIRST.splitlines()):
        _run("postgres", "--single", "-c", "fsync=off", "-D", str(data), "postgres", stdin=line)
    return data


def _run(program: str, *arguments: str, stdin: str = "") -> None:
    account = ACCOUNT if os.geteuid() == 0 else None
    command = [str(_binary(program)), *arguments]
    done = subprocess.run(command, input=stdin.encode(), capture_output=True, check=False, user=account, cwd="/")
    assert done.returncode == 0, f"{program}: {done.stderr.decode()}"


def _binary(name: str) -> Path:
    assert (BINARIES / name).exists(), f"{name} is missing: apt-get install postgresql (version 15)"
    return BINARIES / name


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, ACCOUNT)


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())
