"""Resolving `env(NAME)`, `credential(NAME)` and `file(PATH)`, when the farm starts or reloads.

No problem ever shows what was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from atmo_farm.directive import addresses, dsn
from atmo_farm.directive.connections import DatabaseConnection, Reference
from atmo_farm.directive.keys.connections import DATABASE, REDIS, SASL_MECHANISMS, SECURITY_PROTOCOLS, TLS
from atmo_farm.directive.keys.secret import OrReference, is_lines
from atmo_farm.directive.keys.shapes import Table
from atmo_farm.directive.model import Directive
from atmo_farm.directive.report import in_order
from atmo_farm.errors import Position, Problem, UserFilesError

MAX_BYTES = 1 << 20
CREDENTIAL_PREFIX = "atmo_"


def _check(table: Table, name: str) -> Callable[[str], Any]:
    """What the table demands of a key that is no text."""
    kind = table.by_name[name].kind
    assert isinstance(kind, OrReference)
    return kind.check


_CHECKS: dict[str, Callable[[str], Any]] = {
    "redis.server_address": addresses.redis,
    "nats.server_addresses": addresses.nats,
    "kafka.broker_addresses": addresses.kafka,
    "kafka.security_protocol": addresses.one_of(SECURITY_PROTOCOLS),
    "kafka.sasl_mechanism": addresses.one_of(SASL_MECHANISMS),
    "redis.database": _check(REDIS, "database"),
    "database.pool_size": _check(DATABASE, "poolSize"),
    "database.connect_timeout_s": _check(DATABASE, "connectTimeout"),
    "database.statement_timeout_s": _check(DATABASE, "statementTimeout"),
    "database.idle_timeout_s": _check(DATABASE, "idleTimeout"),
    "tls.handshake_first": _check(TLS, "handshakeFirst"),
}
"""What is demanded of a value once it is known; literal values were checked when the file was read."""


_SECRETS = "secrets"
"""The capability whose values go to functions as they are: a key in PEM has several lines."""


class _UnsetError(ValueError):
    """A reference that leads nowhere."""


def resolve(directive: Directive, environ: Mapping[str, str], credentials_dir: Path | None) -> Directive:
    """The Directive with every reference replaced by what it stands for.

    `credentials_dir` is systemd's $CREDENTIALS_DIRECTORY; `credential(NAME)` is its file `atmo_NAME`.
    Raises UserFilesError with a problem for each reference that is unset, empty, or not fit for its key.
    """
    resolver = _Resolver(environ, credentials_dir)
    resolved = resolver.directive(directive)
    if resolver.problems:
        raise UserFilesError(in_order(resolver.problems))
    return resolved


def unset(directive: Directive, environ: Mapping[str, str], credentials_dir: Path | None) -> tuple[Problem, ...]:
    """What `resolve` would refuse, as warnings: what is unset here may be set where the farm runs."""
    resolver = _Resolver(environ, credentials_dir)
    resolver.directive(directive)
    return in_order([*(attrs.evolve(problem, severity="warning") for problem in resolver.problems), *resolver.warnings])


def references(directive: Directive) -> tuple[Reference, ...]:
    """All that stand in it."""
    collector = _Collector({}, None)
    collector.directive(directive)
    return tuple(collector.found)


class _Resolver:
    """Walks through the parts of a Directive that may hold references."""

    def __init__(self, environ: Mapping[str, str], credentials_dir: Path | None) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._referred: list[str] = []
        self._environ = environ
        self._credentials = credentials_dir

    def directive(self, directive: Directive) -> Directive:
        """With all values resolved that could be; the others are in `problems`."""
        resolved = attrs.evolve(
            directive,
            connections=self._walk(directive.connections, ""),
            authentication=self._walk(directive.authentication, ""),
            capabilities={name: self._walk(value, name) for name, value in directive.capabilities.items()},
        )
        return attrs.evolve(resolved, referred=tuple(self._referred))

    def _walk(self, value: Any, where: str) -> Any:
        """A copy of the value; `where` is `<kind of connection>.<field>` as in the checks, or a capability."""
        if isinstance(value, Reference):
            found = self._value(value, _CHECKS.get(where), multiline=where == _SECRETS)
            if where not in _CHECKS and not where.endswith("_file"):
                self._referred.append(found)
            return found
        if isinstance(value, DatabaseConnection):
            value = self._with_target(value)
        if isinstance(value, Position) or not value:
            return value
        if attrs.has(type(value)):
            kind = type(value).__name__.removesuffix("Connection").lower()
            fields = [field.name for field in attrs.fields(type(value)) if field.init]
            return attrs.evolve(value, **{name: self._walk(getattr(value, name), f"{kind}.{name}") for name in fields})
        if isinstance(value, Mapping):
            return {name: self._walk(item, where) for name, item in value.items()}
        if isinstance(value, tuple):
            items: list[Any] = []
            for item in value:
                walked = self._walk(item, where)
                # One reference in a list of addresses may stand for several.
                items += walked if isinstance(item, Reference) and isinstance(walked, tuple) else [walked]
            return tuple(items)
        return value

    def _with_target(self, database: DatabaseConnection) -> DatabaseConnection:
        reference = database.connection_string
        if not isinstance(reference, Reference):
            return database
        text = self._value(reference, None)
        if not text:
            return attrs.evolve(database, connection_string=text)
        try:
            target = dsn.parse(database.type, text)
        except ValueError as error:
            self._problem(reference, f"what {reference} holds {error}")
            return attrs.evolve(database, connection_string="")
        for option in target.ignored:
            message = f"the option `{option}` was Atmo's driver's own and has no effect here"
            self.warnings.append(Problem(reference.position, reference.key, message, "warning"))
        return attrs.evolve(database, connection_string=text, target=target)

    def _value(self, reference: Reference, check: Callable[[str], Any] | None, multiline: bool = False) -> Any:
        """What the reference stands for, checked; "" with a problem when there is nothing or it does not fit."""
        try:
            text = self._read(reference)
        except _UnsetError as error:
            self._problem(reference, str(error))
            return ""
        try:
            if not text:
                raise ValueError("is empty")
            if not (is_lines(text) if multiline else text.isprintable()):
                raise ValueError("holds line breaks or control characters")
            return check(text) if check else text
        except ValueError as error:
            self._problem(reference, f"what {reference} holds {error}")
            return ""

    def _read(self, reference: Reference) -> str:
        if reference.kind == "env":
            value = self._environ.get(reference.name)
            if value is None:
                raise _UnsetError(f"the environment variable {reference.name} is not set")
            return value
        if reference.kind == "credential":
            if self._credentials is None:
                raise _UnsetError(f"{reference} needs systemd's credentials, and $CREDENTIALS_DIRECTORY is not set")
            return _file_text(self._credentials / f"{CREDENTIAL_PREFIX}{reference.name}")
        return _file_text(Path(reference.name).expanduser())

    def _problem(self, reference: Reference, message: str) -> None:
        self.problems.append(Problem(reference.position, reference.key, message))


class _Collector(_Resolver):
    """Reads nothing."""

    def __init__(self, environ: Mapping[str, str], credentials_dir: Path | None) -> None:
        super().__init__(environ, credentials_dir)
        self.found: list[Reference] = []

    def _value(self, reference: Reference, check: Callable[[str], Any] | None, multiline: bool = False) -> Any:  # noqa: ARG002
        self.found.append(reference)
        return ""


def _file_text(path: Path) -> str:
    """The text of a small file without its last line end; _UnsetError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise _UnsetError(f"the file {path} cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise _UnsetError(f"the file {path} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return re.sub(r"\r?\n\Z", "", data.decode("utf-8"))
    except UnicodeDecodeError:
        raise _UnsetError(f"the file {path} is not UTF-8 text") from None
