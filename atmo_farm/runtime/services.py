"""What the runtime asks of the outside: the seam between host functions and capabilities.

The runtime decodes a guest's call (pointers checked, bytes copied, texts decoded as UTF-8 with replacement) and calls
one method here; `capabilities/` implements them. A method must not block. It returns its answer at once where it can
(that costs no task), or an awaitable, and the guest is suspended until that is done. It raises `HostError` to give the
guest an error text or number; anything else that it raises is logged and becomes -1.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

Answer = bytes | Awaitable[bytes]


class Services(Protocol):
    """The view of one run of one function: made for the call, dropped after it."""

    @property
    def number(self) -> int:
        """What the message is known by should its guest end the process; 0: by nothing."""

    def log_msg(self, level: int, message: str) -> None:
        """A log line of the guest; level: error 1, warn 2, info 3, debug 4, anything else is info."""

    def guest_output(self, text: str) -> None:
        """What the guest wrote to its stdout and stderr in this run, whole, possibly of several lines."""

    def request_get_field(self, field: int, key: str) -> bytes:
        """A field of the request (meta 0, body 1, header 2, params 3, state 4, query 5); unknown: empty."""

    def request_set_field(self, field: int, key: str, value: bytes) -> None:
        """Change a field of the request for what runs after this function."""

    def resp_set_header(self, key: str, value: str) -> None:
        """Set a header of the outgoing message."""

    def fetch_url(self, method: int, url: str, body: bytes) -> Answer:
        """An HTTP request; method GET HEAD OPTIONS POST PUT PATCH DELETE = 0…6, headers are inside the url."""

    def graphql_query(self, endpoint: str, query: str) -> Answer:
        """A GraphQL query; the whole response body."""

    def cache_set(self, key: str, value: bytes, ttl: int) -> Answer:
        """Keep a value for ttl seconds (0: for ever); the answer is ignored, the guest sees 0."""

    def cache_get(self, key: str) -> Answer:
        """A kept value, or HostError('key not found')."""

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> Answer:
        """Run a named query (insert 0, select 1, update 2, delete 3) with variables in the order they were added."""

    def get_static_file(self, name: str) -> Answer:
        """The bytes of one of the application's static files."""

    def get_secret_value(self, key: str) -> Answer:
        """A secret that the Directive allows."""
