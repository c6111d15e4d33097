"""One run's view of the outside: what it reads, changes, logs, and what it may not."""

from __future__ import annotations

import inspect
import time

import pytest

from atmo_farm.capabilities import services as services_module
from atmo_farm.capabilities.request import FieldType, Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import CHANGES_CAP, LINES_CAP, CallServices, Capabilities
from atmo_farm.errors import HostError

NOT_ENABLED = "^capability is not enabled$"


class Lines:
    """Remembers the lines of functions."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, str, str]] = []

    def line(self, level: int, text: str, function: str, request_id: str) -> None:
        self.lines.append((level, text, function, request_id))


def call(rules: Rules | None = None, body: bytes = b'{"a": "b"}') -> tuple[CallServices, Request, Lines]:
    """A run of function `ns::fn`, its sequence's request, and where its lines go."""
    request, lines = Request("STREAM", "orders.new", "id-1", body, {"k": "v"}), Lines()
    return Capabilities(rules or Rules(), lines).for_call("ns::fn", request), request, lines


def test_the_functions_lines_say_whose_they_are() -> None:
    services, _, lines = call()
    services.log_msg(1, "an error")
    services.log_msg(77, "a level that there is not")
    services.guest_output("printed\nand more\r\n\nlast")
    assert lines.lines == [
        (1, "an error", "ns::fn", "id-1"),
        (77, "a level that there is not", "ns::fn", "id-1"),
        *((3, text, "ns::fn", "id-1") for text in ("printed", "and more", "", "last")),
    ]


def test_a_switched_off_logger_takes_no_line() -> None:
    services, _, lines = call(Rules(logger=False))
    services.log_msg(1, "an error")
    services.guest_output("printed")
    assert lines.lines == []


def test_a_run_that_prints_many_lines_writes_some_of_them() -> None:
    """All of its 32 KiB may be line ends."""
    services, _, lines = call()
    services.guest_output("\n" * 32_000)
    assert len(lines.lines) == LINES_CAP + 1
    assert lines.lines[-1][1] == f"… and {32_000 - LINES_CAP} more lines"


def test_a_change_shows_to_this_run_and_is_left_behind_for_the_sequence() -> None:
    services, request, _ = call()
    assert services.request_get_field(FieldType.BODY, "a") == b"b"
    assert services.changes is None
    services.request_set_field(FieldType.STATE, "key", b"\xff")
    services.request_set_field(FieldType.META, "url", b"/other")
    assert services.request_get_field(FieldType.STATE, "key") == b"\xff"
    assert (request.state, request.url) == ({}, "orders.new"), "other runs of a group do not see it"
    assert services.changes == [(FieldType.STATE, "key", b"\xff"), (FieldType.META, "url", b"/other")]
    for change in services.changes:
        request.set(*change)
    assert (request.state, request.url) == ({"key": b"\xff"}, "/other")


def test_a_change_that_is_refused_is_not_left_behind() -> None:
    services, _, _ = call()
    with pytest.raises(HostError):
        services.request_set_field(FieldType.QUERY, "a", b"1")
    assert not services.changes


def test_headers_of_the_output_the_last_value_wins() -> None:
    services, _, _ = call()
    assert services.headers is None
    for value in ("1", "2"):
        services.resp_set_header("X-A", value)
    assert services.headers == {"X-A": "2"}


def test_the_request_families_can_be_switched_off() -> None:
    services, _, _ = call(Rules(get_field=False))
    with pytest.raises(HostError, match=NOT_ENABLED):
        services.request_get_field(FieldType.META, "url")
    services.request_set_field(FieldType.STATE, "k", b"v")
    services, _, _ = call(Rules(set_field=False))
    with pytest.raises(HostError, match=NOT_ENABLED):
        services.request_set_field(FieldType.STATE, "k", b"v")
    assert services.changes is None
    assert services.request_get_field(FieldType.META, "url") == b"orders.new"


def test_families_that_are_not_served_say_so() -> None:
    """As the runtime calls them."""
    services, _, _ = call()
    for ask in (
        lambda: services.fetch_url(0, "http://localhost", b""),
        lambda: services.graphql_query("http://localhost", "{}"),
        lambda: services.cache_set("k", b"v", 0),
        lambda: services.cache_get("k"),
        lambda: services.db_exec(1, "q", [("a", b"1")]),
        lambda: services.get_static_file("index.html"),
    ):
        with pytest.raises(HostError, match=NOT_ENABLED) as caught:
            ask()
        assert caught.value.result is None


def test_secrets_are_those_of_the_directive_and_no_others() -> None:
    services, _, _ = call(Rules(secrets={"KEY": "Zoë"}))
    assert services.get_secret_value("KEY") == "Zoë".encode()
    for name in ("key", "PATH", ""):
        with pytest.raises(HostError, match=f"^secret is not allowed: {name}$"):
            services.get_secret_value(name)
    services, _, _ = call()
    with pytest.raises(HostError, match=NOT_ENABLED):
        services.get_secret_value("KEY")


def test_what_a_run_changes_is_bounded_in_bytes() -> None:
    """Else a guest of 64 MiB fills the process with its changes, whatever its own limit is."""
    services, _, _ = call()
    value = bytes(1 << 20)
    with pytest.raises(HostError, match="too many changes"):
        for number in range(1000):
            services.request_set_field(FieldType.STATE, str(number), value)
    assert services.changes is not None
    assert 20 << 20 < sum(len(change[2]) for change in services.changes) <= CHANGES_CAP
    with pytest.raises(HostError, match="too many changes"):
        services.resp_set_header("X", "y")


@pytest.mark.parametrize("kind", ["state", "header", "body"])
def test_what_a_run_changes_is_bounded_in_number_and_time(kind: str) -> None:
    """The sequence does all changes again in one go, and each copies what it changes."""
    body = b'{"a": [' + b"1," * 250_000 + b"1]}" if kind == "body" else b"{}"
    services, request, _ = call(body=body)
    with pytest.raises(HostError, match="too many changes"):
        for number in range(10_000):
            if kind == "header":
                services.resp_set_header(f"X-{number}", "v")
            else:
                services.request_set_field(FieldType.BODY if kind == "body" else FieldType.STATE, str(number), b"v")
    began = time.process_time()
    for change in services.changes or ():
        request.set(*change)
    assert time.process_time() - began < 5
    assert (200 if kind == "header" else 10) < len(services.headers or services.changes or ()) < 1100


def test_changes_of_one_run_do_not_count_for_the_next() -> None:
    capabilities, request = Capabilities(Rules(), Lines()), Request("STREAM", "s", "id", b"")
    for _ in range(3):
        services = capabilities.for_call("fn", request)
        services.request_set_field(FieldType.STATE, "k", bytes(services_module.CHANGES_CAP // 2))


def test_all_of_the_protocol_is_there() -> None:
    from atmo_farm.runtime.services import Services

    services, _, _ = call()
    for name, what in vars(Services).items():
        if not name.startswith("_"):
            assert callable(getattr(services, name)) == inspect.isfunction(what)
