"""Grav envelopes: what counts as one, and what goes out in one."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.streams import grav

META = {
    "uuid": "8c7e",
    "parent_id": "",
    "response_to": "",
    "msg_type": "com.x",
    "timestamp": "2022-05-01T10:00:00.123456789Z",
}


def envelope(data: Any = "aGk=", **meta: Any) -> bytes:
    return json.dumps({"meta": {**META, **meta}, "payload": {"data": data}}).encode()


def test_an_envelope_of_atmo() -> None:
    """Its uuid and its payload; further keys change nothing."""
    assert grav.unwrap(envelope()) == grav.Envelope("8c7e", b"hi")
    assert grav.unwrap(envelope(more={"a": 1})) == grav.Envelope("8c7e", b"hi")


@pytest.mark.parametrize("data", ["", None])
def test_an_empty_payload(data: str | None) -> None:
    """Go writes an empty []byte as "" or as null."""
    assert grav.unwrap(envelope(data)) == grav.Envelope("8c7e", b"")


@pytest.mark.parametrize(
    "data",
    [
        envelope(uuid=""),
        envelope(uuid=7),
        envelope(msg_type=None),
        envelope(5),
        envelope("not base64!"),
        envelope("aGk"),
        envelope("ä"),
        envelope(["aGk="]),
        b'{"meta": {"uuid": "u", "msg_type": "t"}}',
        b'{"meta": {"uuid": "u", "msg_type": "t"}, "payload": {}}',
        b'{"meta": ["msg_type"], "payload": {"data": ""}}',
        b'{"meta": "msg_type", "payload": {"data": ""}}',
        b'["msg_type"]',
        b'"msg_type"',
        b'{"msg_type": 1',
        b'\xff"msg_type"',
        b'"msg_type"' + b"[" * 100_000,
        b'{"msg_type": ' + b"9" * 10_000 + b"}",
        b"",
        b"hello",
    ],
    ids=lambda data: data[:40].decode("ascii", "replace"),
)
def test_everything_else_is_a_raw_payload(data: bytes) -> None:
    """JSON that only looks like an envelope, broken JSON, JSON that is a bomb."""
    assert grav.unwrap(data) is None


@given(st.binary())
def test_any_bytes_are_unwrapped_or_not(data: bytes) -> None:
    """Nothing is raised."""
    grav.unwrap(data + grav.MARK)


@given(st.binary(), st.text(), st.text())
def test_what_is_wrapped_can_be_unwrapped(data: bytes, subject: str, parent: str) -> None:
    """Bytes in, the same bytes out; each envelope has a uuid of its own."""
    first, second = (grav.unwrap(grav.wrap(data, subject, parent, parent)) for _ in range(2))
    assert first is not None and second is not None
    assert first.data == second.data == data
    assert first.uuid != second.uuid


def test_the_form_that_grav_reads() -> None:
    """All keys of Grav's struct; the timestamp as RFC 3339 in UTC; bytes as base64."""
    made = json.loads(grav.wrap(b"\x00\xff", "com.y", "parent", "cause"))
    assert list(made) == ["meta", "payload"] and list(made["payload"]) == ["data"]
    meta = made["meta"]
    assert str(UUID(meta.pop("uuid"))) and base64.b64decode(made["payload"]["data"]) == b"\x00\xff"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", meta.pop("timestamp"))
    assert meta == {"parent_id": "parent", "response_to": "cause", "msg_type": "com.y"}
