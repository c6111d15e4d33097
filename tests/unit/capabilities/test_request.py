"""What request_get_field and request_set_field see."""

import json

import pytest

from atmo_farm.capabilities.request import FieldType, Request
from atmo_farm.errors import HostError


def request(body: bytes = b"{}", **keys: object) -> Request:
    return Request("STREAM", "orders.new?a=1&a=2&b=", "id-1", body, {"content-type": "text/plain"}, **keys)  # type: ignore[arg-type]


def test_meta() -> None:
    """method, url, id and body; anything else is empty."""
    r = request(b"raw")
    assert [r.get(FieldType.META, key) for key in ("method", "url", "id", "body", "x")] == [
        b"STREAM",
        b"orders.new?a=1&a=2&b=",
        b"id-1",
        b"raw",
        b"",
    ]


def test_headers_in_any_case() -> None:
    """Names are compared without case; attempt and message id are there too."""
    r = request(attempt=3)
    assert r.get(FieldType.HEADER, "Content-Type") == b"text/plain"
    assert r.get(FieldType.HEADER, "Atmo-Attempt") == b"3"
    assert r.get(FieldType.HEADER, "ATMO-MESSAGE-ID") == b"id-1"
    assert r.get(FieldType.HEADER, "x-none") == b""


def test_body_fields() -> None:
    """Strings as they are, other values as JSON, null and missing ones empty; a body that is no object has none."""
    body = json.dumps({"s": "é", "n": 1.5, "o": {"a": [1]}, "t": True, "z": None}).encode()
    assert [request(body).get(FieldType.BODY, key) for key in "snotzx"] == [
        "é".encode(),
        b"1.5",
        b'{"a":[1]}',
        b"true",
        b"",
        b"",
    ]
    for other in (b"", b"\xff", b"[1]", b"1", b'{"a"'):
        assert request(other).get(FieldType.BODY, "a") == b""


def test_a_body_nested_too_deeply_has_no_fields() -> None:
    """JSON that would blow Python's recursion limit is just no object."""
    assert request(b'{"a":' + b"[" * 200_000).get(FieldType.BODY, "a") == b""


def test_state_params_query() -> None:
    """State is bytes; the last value of a repeated query key."""
    r = request(state={"k": b"\x00\xff"}, params={"id": "7"})
    assert r.get(FieldType.STATE, "k") == b"\x00\xff"
    assert r.get(FieldType.PARAMS, "id") == b"7"
    assert [r.get(FieldType.QUERY, key) for key in ("a", "b", "c")] == [b"2", b"", b""]


def test_an_unknown_field_type_is_the_guests_error() -> None:
    """Not an empty answer: the guest passed a wrong number."""
    with pytest.raises(HostError):
        request().get(9, "a")


def test_set_changes_only_this_view() -> None:
    """Mappings are replaced, not changed in place."""
    original = request(state={"k": b"1"})
    view = original.copy()
    view.set(FieldType.STATE, "k", b"2")
    view.set(FieldType.HEADER, "X-A", b"b")
    view.set(FieldType.PARAMS, "p", b"q")
    view.set(FieldType.BODY, "f", b"v")
    view.set(FieldType.META, "url", b"/other")
    assert (view.state, view.headers["x-a"], view.params, view.body, view.url) == (
        {"k": b"2"},
        "b",
        {"p": "q"},
        b'{"f": "v"}',
        "/other",
    )
    assert original.state == {"k": b"1"} and "x-a" not in original.headers and original.body == b"{}"


def test_what_cannot_be_set() -> None:
    """A query field or an unknown meta key answers an error to the guest."""
    for field, key in ((FieldType.QUERY, "a"), (FieldType.META, "nope"), (77, "a")):
        with pytest.raises(HostError):
            request().set(field, key, b"v")
