"""Between the wire and a handler: ids, envelopes, subjects."""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

import pytest

from atmo_farm.errors import PublishError
from atmo_farm.streams import grav
from atmo_farm.streams.base import Message, Output
from atmo_farm.streams.codec import NO_HEADERS, Codec

WRAPPED = grav.wrap(b"hi", "com.x")
UUID = json.loads(WRAPPED)["meta"]["uuid"]
Kind = Literal["auto", "raw", "grav"]


def received(codec: Codec, data: bytes, reply: str = "inbox.1") -> Message:
    return codec.message("a.b", reply, NO_HEADERS, data)


def opened(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return {**found["meta"], "data": base64.b64decode(found["payload"]["data"])}


def test_a_raw_message() -> None:
    """As it came, under a new id."""
    message = received(Codec("auto"), b"hi")
    assert message == Message("a.b", b"hi", {}, message.id, "inbox.1", "")
    assert len(message.id) == 36 and received(Codec("auto"), b"hi").id != message.id


def test_the_senders_id() -> None:
    """`Nats-Msg-Id` is the message's id where there is one."""
    codec = Codec("auto")
    assert codec.message("a", "", {"nats-msg-id": "m-1"}, b"").id == "m-1"
    assert len(codec.message("a", "", {"nats-msg-id": ""}, b"").id) == 36


@pytest.mark.parametrize("kind", ["auto", "grav"])
def test_an_envelope_is_taken_off(kind: Kind) -> None:
    """The handler sees the payload; the uuid is kept for the answer."""
    message = received(Codec(kind), WRAPPED)
    assert (message.data, message.envelope) == (b"hi", UUID)


def test_raw_takes_nothing_off() -> None:
    """The envelope is the payload."""
    message = received(Codec("raw"), WRAPPED)
    assert (message.data, message.envelope) == (WRAPPED, "")


@pytest.mark.parametrize("kind", ["auto", "grav"])
def test_an_answer_to_an_envelope_is_in_one(kind: Kind) -> None:
    """It refers to what it answers; Grav's type is the subject."""
    codec = Codec(kind)
    message = received(codec, WRAPPED)
    answer = opened(codec.payload(Output(message.reply, b"HI", {}, message)))
    assert answer["data"] == b"HI" and answer["msg_type"] == "inbox.1"
    assert answer["parent_id"] == answer["response_to"] == UUID and answer["uuid"] != UUID


def test_an_answer_to_a_raw_message_is_raw() -> None:
    """In kind; so is what answers nothing."""
    codec = Codec("auto")
    message = received(codec, b"hi")
    assert codec.payload(Output(message.reply, b"HI", {}, message)) == b"HI"
    assert codec.payload(Output("c.d", b"HI", {})) == b"HI"


def test_grav_wraps_everything() -> None:
    """Also the answer to a raw message; it refers to nothing."""
    codec = Codec("grav")
    answer = opened(codec.payload(Output("inbox.1", b"HI", {}, received(codec, b"hi"))))
    assert answer["data"] == b"HI" and answer["parent_id"] == answer["response_to"] == ""


def test_a_target_of_the_directive_or_of_a_guest_is_checked() -> None:
    """An illegal subject is refused for good; what goes wrong is said."""
    with pytest.raises(PublishError, match=r"cannot publish on 'a b': .*blanks") as caught:
        Codec("auto").payload(Output("a b", b"", {}))
    assert not caught.value.transient


def test_a_reply_subject_came_off_the_wire() -> None:
    """The server let it through, so it is used as it is, however long."""
    codec = Codec("auto")
    message = received(codec, b"", reply="x" * 3000)
    assert codec.payload(Output(message.reply, b"1", {}, message)) == b"1"
    with pytest.raises(PublishError):
        codec.payload(Output("x" * 3000, b"1", {}))
