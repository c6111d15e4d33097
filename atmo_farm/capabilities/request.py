"""The request that a function sees: one message (later: HTTP request, schedule) and the state of its sequence."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import attrs

from atmo_farm.errors import HostError


class FieldType(enum.IntEnum):
    """The ABI's numbers for request_get_field and request_set_field."""

    META = 0
    BODY = 1
    HEADER = 2
    PARAMS = 3
    STATE = 4
    QUERY = 5


@attrs.define
class Request:
    """What request_get_field reads; header names are in lower case, state values are what functions returned."""

    method: str
    url: str
    id: str
    body: bytes
    headers: Mapping[str, str] = attrs.field(factory=dict)
    params: Mapping[str, str] = attrs.field(factory=dict)
    state: Mapping[str, bytes] = attrs.field(factory=dict)
    attempt: int = 1

    def get(self, field: int, key: str) -> bytes:
        """The field's bytes; what is not there is empty, as in Atmo. A body that is no JSON object has no fields."""
        if field == FieldType.STATE:
            return self.state.get(key, b"")
        if field == FieldType.META:
            return self._meta(key)
        if field == FieldType.HEADER:
            return self._header(key.lower()).encode()
        if field == FieldType.BODY:
            return _as_text(self._body_object().get(key))
        if field == FieldType.PARAMS:
            return self.params.get(key, "").encode()
        if field == FieldType.QUERY:
            return parse_qs(urlsplit(self.url).query, keep_blank_values=True).get(key, [""])[-1].encode()
        raise HostError(f"{field} is not a field type")

    def set(self, field: int, key: str, value: bytes) -> None:
        """Replace a field. The mappings are copied before they change: other views of the same message keep theirs."""
        if field == FieldType.STATE:
            self.state = {**self.state, key: value}
        elif field == FieldType.HEADER:
            self.headers = {**self.headers, key.lower(): _text(value)}
        elif field == FieldType.PARAMS:
            self.params = {**self.params, key: _text(value)}
        elif field == FieldType.BODY:
            self.body = json.dumps({**self._body_object(), key: _text(value)}).encode()
        elif field == FieldType.META and key in ("method", "url", "id", "body"):
            setattr(self, key, value if key == "body" else _text(value))
        else:
            raise HostError(f"request field {field} {key!r} cannot be set")

    def copy(self) -> Request:
        """A second view: what is set on it does not show in this one (attrs.evolve would cost five times as much)."""
        return Request(self.method, self.url, self.id, self.body, self.headers, self.params, self.state, self.attempt)

    def _meta(self, key: str) -> bytes:
        if key == "body":
            return self.body
        if key == "method":
            return self.method.encode()
        if key == "url":
            return self.url.encode()
        if key == "id":
            return self.id.encode()
        return b""

    def _header(self, name: str) -> str:
        if name == "atmo-attempt":
            return str(self.attempt)
        if name == "atmo-message-id":
            return self.id
        return self.headers.get(name, "")

    def _body_object(self) -> dict[str, object]:
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _as_text(value: object) -> bytes:
    """A JSON string as it is, anything else as JSON; a missing or null one is empty."""
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else json.dumps(value, separators=(",", ":")).encode()
