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
        b'{"f":"v"}',
        "/other",
    )
    assert original.state == {"k": b"1"} and "x-a" not in original.headers and original.body == b"{}"


def test_what_cannot_be_set() -> None:
    """A query field or an unknown meta key answers an error to the guest."""
    for field, key in ((FieldType.QUERY, "a"), (FieldType.META, "nope"), (77, "a")):
        with pytest.raises(HostError):
            request().set(field, key, b"v")


def test_what_is_no_unicode_is_replaced() -> None:
    """JSON may hold half of a surrogate pair, in a body as well as in an envelope."""
    half = "\ud800"
    body = b'{"a": "x\\ud800y", "o": {"b": "\\ud800"}}'
    assert request(body).get(FieldType.BODY, "a") == b"x?y"
    assert request(body).get(FieldType.BODY, "o") == b'{"b":"\\ud800"}'
    broken = Request(half, f"u{half}?q={half}", half, b"", {"h": half}, {"p": half})
    for field, key in ((0, "method"), (0, "id"), (2, "h"), (2, "atmo-message-id"), (3, "p")):
        assert broken.get(field, key) == b"?"
    assert broken.get(FieldType.META, "url") == b"u??q=?"
    assert broken.get(FieldType.QUERY, "q") == b"?"


def test_a_url_that_is_none_has_no_query() -> None:
    """A function may set any."""
    for url in ("http://[?a=1", "//[x?a=1", "x?a=1" + "&b=2" * 16_000):
        assert Request("GET", url, "id", b"").get(FieldType.QUERY, "a") == b""


def test_texts_that_are_set_are_bounded() -> None:
    """Bytes are not: a state value, a whole body."""
    r = request()
    for field, key, cap in ((2, "X", 65_536), (3, "p", 65_536), (0, "url", 65_536), (1, "f", 1 << 20)):
        r.set(field, key, b"\xff" * cap)
        with pytest.raises(HostError, match="at most"):
            r.set(field, key, b"x" * (cap + 1))
    r.set(FieldType.STATE, "k", bytes(2 << 20))
    r.set(FieldType.META, "body", bytes(2 << 20))
    assert len(r.state["k"]) == len(r.body) == 2 << 20


def test_a_body_that_is_nested_to_the_limit() -> None:
    """Reading succeeds before writing does: an error text for the guest, nothing else."""
    for depth in range(900, 1000):
        body = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        for ask in (lambda r: r.get(FieldType.BODY, "a"), lambda r: r.set(FieldType.BODY, "b", b"c")):
            try:
                ask(request(body))
            except HostError as error:
                assert "nested" in error.message
