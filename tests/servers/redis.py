"""Debian's redis-server: one function for each kind of configuration that tests need.

A server is described (`RedisServer`), then started; it keeps everything in memory, so a restarted one is empty.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from atmo_farm.directive.connections import RedisConnection
from tests.servers.process import ServerProcess, free_port


def redis_server_binary() -> str:
    """The path of redis-server; AssertionError tells how to install it."""
    found = shutil.which("redis-server")
    assert found, "redis-server is missing: apt-get install redis-server"
    return found


class RedisServer(ServerProcess):
    """A redis-server on 127.0.0.1 with a free port and a Unix socket, its files under `folder`.

    `config` is text in redis-server's own format; with `tls` (below) the port speaks TLS.
    """

    def __init__(self, folder: Path, config: str = "", port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port() if port is None else port
        self.socket = folder / "redis.sock"
        config_file = folder / "redis.conf"
        listen = f"port 0\ntls-port {port}" if "tls-cert-file" in config else f"port {port}"
        config_file.write_text(
            f'bind 127.0.0.1\n{listen}\nunixsocket {self.socket}\ndir {folder}\nsave ""\nappendonly no\n{config}\n'
        )
        super().__init__((redis_server_binary(), str(config_file)), port, folder)

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`, as it stands under `serverAddress`."""
        return f"127.0.0.1:{self.port}"

    def connection(self, **keys: object) -> RedisConnection:
        """`connections.redis` as the Directive has it after its references are resolved."""
        return RedisConnection(**{"server_address": self.address, **keys})  # type: ignore[arg-type]


def password(value: str) -> str:
    """Configuration of a server that asks for this password."""
    return f"requirepass {value}"


def user(name: str, value: str, rules: str = "~* +@all") -> str:
    """Configuration of a server that lets in this user alone (ACL `rules`)."""
    return f"user default off\nuser {name} on >{value} {rules}"


def tls(folder: Path, *, verify: bool = False) -> str:
    """Configuration of a server with certificates of `certificates.make(folder)`; `verify` asks for the client's."""
    return (
        f"tls-cert-file {folder / 'server.pem'}\ntls-key-file {folder / 'server.key'}\n"
        f"tls-ca-cert-file {folder / 'ca.pem'}\ntls-auth-clients {'yes' if verify else 'no'}"
    )
