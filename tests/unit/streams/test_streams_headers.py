"""Header blocks on the wire, and the headers of error answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.errors import PublishError
from atmo_farm.streams import headers

NAMES = st.text("!#$%&'*+-.^_`|~0123456789ABCxyz", min_size=1)


def test_a_received_block() -> None:
    """Names in lower case, blanks around values gone, colons in values kept, UTF-8 as it is."""
    block = "NATS/1.0\r\nX-One: 1\r\nURL:http://h:1/\r\nempty:\r\nname:  Zoë  \r\n\r\n".encode()
    assert headers.decode(block) == {"x-one": "1", "url": "http://h:1/", "empty": "", "name": "Zoë"}


def test_the_last_value_of_a_repeated_name() -> None:
    """In whatever case it is written."""
    assert headers.decode(b"NATS/1.0\r\nA: 1\r\na: 2\r\nA:3\r\n\r\n") == {"a": "3"}


@pytest.mark.parametrize("line", [b"no colon", b": no name", b"  : blanks for a name", b""])
def test_broken_lines_are_left_out(line: bytes) -> None:
    """The others count."""
    assert headers.decode(b"NATS/1.0\r\nA: 1\r\n" + line + b"\r\nB: 2\r\n\r\n") == {"a": "1", "b": "2"}


def test_a_status_line_is_no_header() -> None:
    """`NATS/1.0 503` says that nobody listens; it has no headers."""
    assert headers.decode(b"NATS/1.0 503 No Responders\r\n\r\n") == {}


@given(st.binary())
def test_any_bytes_decode(block: bytes) -> None:
    """Whatever a sender puts there, it is text afterwards."""
    for name, value in headers.decode(b"NATS/1.0\r\n" + block).items():
        assert name and name == name.lower()
        (name + value).encode()


def test_a_block_to_send() -> None:
    """Names as they were given, line breaks in a value as blanks: nobody can forge a second header."""
    block = headers.encode({"X-One": "1", "Two": "a\r\nEvil: 1\x00b\n", "T": "ü"})
    assert block == "NATS/1.0\r\nX-One: 1\r\nTwo: a Evil: 1 b\r\nT: ü\r\n\r\n".encode()


def test_no_headers() -> None:
    """The shortest block that a server takes."""
    assert headers.encode({}) == b"NATS/1.0\r\n\r\n"


@pytest.mark.parametrize("name", ["", " ", "a b", "a:b", "a\r\nb", "ä", "x\x00", "(a)"])
def test_names_that_are_not_legal(name: str) -> None:
    """Refused for good, with the name in the message."""
    with pytest.raises(PublishError, match="header name") as caught:
        headers.encode({name: "1"})
    assert not caught.value.transient and repr(name) in str(caught.value)


def test_a_long_name_is_cut_in_the_message() -> None:
    """A guest's name may be as long as its memory."""
    with pytest.raises(PublishError) as caught:
        headers.encode({"ä" * 100_000: "1"})
    assert len(str(caught.value)) < 200


@given(st.dictionaries(NAMES, st.text()))
def test_what_is_sent_arrives(sent: dict[str, str]) -> None:
    """Every name and every value, but for the case of names, blanks around values and line breaks."""
    wanted = {name.lower(): headers.clean(value) for name, value in sent.items()}
    arrived = headers.decode(headers.encode(sent))
    assert arrived.keys() == wanted.keys()
    for name, value in arrived.items():
        assert value == wanted[name].encode("utf-8", "replace").decode()


def test_an_error_answer() -> None:
    """Code and text as NATS services send them; a long text is cut."""
    assert headers.error_answer(404, "no such user") == {
        "Nats-Service-Error-Code": "404",
        "Nats-Service-Error": "no such user",
    }
    assert len(headers.error_answer(500, "x" * 5000)["Nats-Service-Error"]) == 1000
