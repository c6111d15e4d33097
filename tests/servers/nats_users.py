"""Users of a nats-server as operators make them: nkey seeds, and JWTs signed by an account that an operator signed.

operator ── signs ──> account ── signs ──> user          a JWT names its signer (iss) and whom it is about (sub)
operator JWT and account JWT stand in the server's configuration, user JWT and seed in the user's credentials file
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import attrs
import nkeys  # type: ignore[import-untyped]

UNLIMITED = -1


@attrs.frozen
class Key:
    """An nkey pair in its text forms."""

    seed: str
    public: str

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature."""
        signature: bytes = nkeys.from_seed(bytearray(self.seed.encode())).sign(data)
        return signature


def new_key(prefix: int = nkeys.PREFIX_BYTE_USER) -> Key:
    """A random pair; the prefix says whose: `nkeys.PREFIX_BYTE_USER`, `…_ACCOUNT`, `…_OPERATOR`."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
    return Key(seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode())


class Operator:
    """An operator with one account: what the server must know, and credentials of users that it lets in."""

    def __init__(self) -> None:
        self._key = new_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)

    def configuration(self) -> str:
        """For the server: the operator, and the account in a resolver that keeps all in memory."""
        limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), UNLIMITED)
        operator = _jwt(self._key, self._key, {"type": "operator"})
        account = _jwt(self._key, self._account, {"type": "account", "limits": {**limits, "wildcards": True}})
        return f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {self._account.public}: {account} }}\n"

    def credentials(self, *, payload: int = UNLIMITED, expires: int = 0) -> str:
        """A new user's credentials file. `payload` bytes at most in a message; `expires` is a Unix time, 0 is never."""
        user = new_key()
        limits = {"subs": UNLIMITED, "data": UNLIMITED, "payload": payload}
        jwt = _jwt(self._account, user, {"type": "user", "pub": {}, "sub": {}, **limits}, expires)
        return credentials_file(jwt, user.seed)


def credentials_file(jwt: str, seed: str) -> str:
    """The two in the form of a `.creds` file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def _jwt(signer: Key, about: Key, claims: Mapping[str, Any], expires: int = 0) -> str:
    body: dict[str, Any] = {
        "jti": base64.b32encode(os.urandom(20)).decode(),
        "iat": int(time.time()),
        "iss": signer.public,
        "sub": about.public,
        "name": str(claims["type"]),
        "nats": {"version": 2, **claims},
    }
    if expires:
        body["exp"] = expires
    signed = f"{_encode({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encode(body)}"
    return f"{signed}.{_base64(signer.sign(signed.encode()))}"


def _encode(content: Mapping[str, Any]) -> str:
    return _base64(json.dumps(content, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
