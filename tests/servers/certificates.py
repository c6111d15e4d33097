"""Certificates for TLS tests, made by the openssl command: an authority, and a server's and a client's signed by it."""

from __future__ import annotations

import subprocess
from pathlib import Path

SERVER_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"
ENCRYPTED_KEY_PASSWORD = "only-tests-know"


def make(folder: Path) -> Path:
    """`ca`, `server` (localhost and 127.0.0.1) and `client`, each as .pem and .key; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(folder, "ca", "-subj", "/CN=authority of tests", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    signed = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"))
    end_entity = ("-addext", "basicConstraints=critical,CA:FALSE")
    _openssl(folder, "server", "-subj", "/CN=server", *end_entity, "-addext", SERVER_NAMES, *signed)
    _openssl(folder, "client", "-subj", "/CN=client", *end_entity, *signed)
    return folder


def encrypt_key(key: Path) -> Path:
    """The same private key under a password (ENCRYPTED_KEY_PASSWORD), as a file beside it."""
    encrypted = key.with_suffix(".encrypted")
    password = f"pass:{ENCRYPTED_KEY_PASSWORD}"
    _run("pkey", "-in", str(key), "-aes256", "-passout", password, "-out", str(encrypted))
    return encrypted


def _openssl(folder: Path, name: str, *arguments: str) -> None:
    key = (
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-noenc",
        "-keyout",
        str(folder / f"{name}.key"),
    )
    _run("req", "-x509", "-days", "2", *key, *arguments, "-out", str(folder / f"{name}.pem"))


def _run(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {' '.join(arguments)}: {done.stderr}"
