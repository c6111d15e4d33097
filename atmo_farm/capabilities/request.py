"""The request that a function sees: one message (later: HTTP request, schedule) and the state of its sequence."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import attrs
import msgspec

from atmo_farm.errors import HostError


class Origin(Protocol):
    """Where a stream had the message (`streams.base.Origin`)."""

    def field(self, name: str) -> str:
        """The value of header `name`, `atmo-…` in lower case; empty where there is none."""


class FieldType(enum.IntEnum):
    """The ABI's numbers for request_get_field and request_set_field."""

    META = 0
    BODY = 1
    HEADER = 2
    PARAMS = 3
    STATE = 4
    QUERY = 5


TEXT_CAP = 64 << 10
"""Bytes of a header, a parameter, a method, a URL or an id that a function sets."""

QUERY_FIELDS_CAP = 1000
"""A URL with more fields in its query is read as having none."""

LAX_BODY = 64 << 10
"""Bytes of a body that may be JSON as Python understands it, with halves of surrogate pairs; larger ones are strict."""

BODY_FIELD_CAP = 1 << 20
"""Bytes of a field of the JSON body that a function sets."""


NOTHING: Mapping[str, Any] = {}
"""Shared by requests without parameters or state: a request's mapping is copied before it changes."""


@attrs.define
class Request:
    """What request_get_field reads; header names are in lower case, state values are what functions returned."""

    method: str
    url: str
    id: str
    body: bytes
    headers: Mapping[str, str] = NOTHING
    params: Mapping[str, str] = NOTHING
    state: Mapping[str, bytes] = NOTHING
    attempt: int = 1
    origin: Origin | None = None
    """Where the broker had it: for headers like `Atmo-Stream`."""
    number: int = 0
    """What the crash ledger knows the message by."""

    def get(self, field: int, key: str) -> bytes:
        """The field's bytes; what is not there is empty, as in Atmo. A body that is no JSON object has no fields.

        HostError for a field type that there is not. What is no Unicode (JSON may hold half of a surrogate pair) is
        replaced.
        """
        if field == FieldType.STATE:
            return self.state.get(key, b"")
        if field == FieldType.META:
            return self._meta(key)
        if field == FieldType.HEADER:
            return _bytes(self._header(key.lower()))
        if field == FieldType.BODY:
            return _plain(self._body_object().get(key))
        if field == FieldType.PARAMS:
            return _bytes(self.params.get(key, ""))
        if field == FieldType.QUERY:
            return _bytes(self._query().get(key, [""])[-1])
        raise HostError(f"{field} is not a field type")

    def set(self, field: int, key: str, value: bytes) -> None:
        """Replace a field. The mappings are copied before they change: other views of the same message keep theirs.

        HostError for what cannot be set, and for a text over its cap.
        """
        if field == FieldType.STATE:
            self.state = {**self.state, key: value}
        elif field == FieldType.HEADER:
            self.headers = {**self.headers, key.lower(): _text(value)}
        elif field == FieldType.PARAMS:
            self.params = {**self.params, key: _text(value)}
        elif field == FieldType.BODY:
            text = msgspec.Raw(json.dumps(_text(value, BODY_FIELD_CAP)).encode())
            self.body = msgspec.json.encode({**self._body_object(), key: text})
        elif field == FieldType.META and key in ("method", "url", "id", "body"):
            setattr(self, key, value if key == "body" else _text(value))
        else:
            raise HostError(f"request field {field} {key!r} cannot be set")

    def copy(self) -> Request:
        """A second view: what is set on it does not show in this one (attrs.evolve would cost five times as much)."""
        return Request(
            self.method, self.url, self.id, self.body, self.headers, self.params, self.state, self.attempt,
            self.origin, self.number,
        )  # fmt: skip

    def _meta(self, key: str) -> bytes:
        if key == "body":
            return self.body
        if key == "method":
            return _bytes(self.method)
        if key == "url":
            return _bytes(self.url)
        if key == "id":
            return _bytes(self.id)
        return b""

    def _header(self, name: str) -> str:
        if name == "atmo-attempt":
            return str(self.attempt)
        if name == "atmo-message-id":
            return self.id
        if self.origin is not None and name.startswith("atmo-"):
            return self.origin.field(name) or self.headers.get(name, "")
        return self.headers.get(name, "")

    def _query(self) -> dict[str, list[str]]:
        try:
            return parse_qs(urlsplit(self.url).query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_CAP)
        except ValueError:  # no URL, or more fields: a function may set anything
            return {}

    def _body_object(self) -> dict[str, msgspec.Raw]:
        """The fields of the body, each as JSON: what is inside of them is looked over and not built, which takes a
        hundredth of the time and nearly no memory. A guest may ask for any body's fields any number of times."""
        try:
            return _decode_fields(self.body)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return _lax_fields(self.body) if len(self.body) <= LAX_BODY else {}


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _lax_fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        value = json.loads(body)
        if isinstance(value, dict):
            return {key: msgspec.Raw(json.dumps(item, separators=(",", ":")).encode()) for key, item in value.items()}
    except (ValueError, RecursionError):
        pass
    return {}


def _text(value: bytes, cap: int = TEXT_CAP) -> str:
    if len(value) > cap:
        raise HostError(f"a text of {len(value)} bytes; at most {cap} are taken")
    return value.decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _plain(value: msgspec.Raw | None) -> bytes:
    """A JSON string's text, anything else as JSON without blanks; nothing for what is not there, or null."""
    raw = bytes(value) if value is not None else b"null"
    if raw == b"null":
        return b""
    if raw.startswith(b'"'):
        return _bytes(json.loads(raw))
    try:
        return msgspec.json.format(raw, indent=-1)
    except msgspec.MsgspecError:  # half of a surrogate pair: without blanks already
        return raw
    except RecursionError as error:
        raise HostError("the body is nested too deeply") from error
