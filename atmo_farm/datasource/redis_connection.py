"""One connection to Redis: commands go out in pipelines, and each reply goes to the call whose turn it is.

    sent        GET a, SET b, GET c │ GET d            one write for each turn of the loop
    replies     a  OK  c  d                            in the same order, always

A reply is read for every command, also where nobody waits for it any more: that is what keeps the answer of one call
from another. Commands are packed and replies parsed by hiredis, as redis-py does it; its own connections, which await
each reply by itself, take twice as long.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from atmo_farm import clock
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed, Unreachable
from atmo_farm.datasource.memory import NOT_FOUND
from atmo_farm.datasource.redis_options import RedisOptions, failure, is_read_only, reason, refusal
from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import Op

LARGEST_REPLY = frames.MAX_RESULT
"""Bytes of a value that can be passed on; a reply that grows past it ends the connection."""

HIGH_WATER = 1 << 20
"""Bytes that wait for the server to read them before no more commands are sent."""

MASTER_MOVED_S = 5.0
"""A connection this old that meets a read-only replica is made anew: its name may lead to a new master by now."""

_GET = Op.CACHE_GET
_NOT_YET: Any = object()
_pack: Callable[[tuple[str | bytes | int, ...]], bytes] = cast(Any, hiredis.pack_command)


class RedisLink(asyncio.Protocol):
    """`connect` first; then `send`. `on_progress` is called after replies, and when the server takes more again;
    `on_lost` once, with the reason, when it is gone without `close`.

    It is also gone when the server owes a reply and has given none for `timeout_s`.
    """

    def __init__(
        self,
        options: RedisOptions,
        timeout_s: float,
        on_progress: Callable[[], None],
        on_lost: Callable[[str], None],
    ):
        self._options = options
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._greeting = deque((*options.greeting, (("PING",), "")))
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._problem = "no answer in time"
        """Why it is not, or no more, connected."""
        self._unanswered: deque[Call] = deque()
        """Sent; `call.run` is when. Also those that were given up since."""
        self._partial = 0
        """Bytes that came since the last whole reply."""
        self._choked = self._is_stale = False
        self._timer: asyncio.TimerHandle | None = None
        self.opened_at = 0.0
        self.heard_at = 0.0
        """When the last whole reply came."""

    @property
    def can_send(self) -> bool:
        """Whether the server takes what is sent."""
        return self._transport is not None and not self._choked

    @property
    def unanswered(self) -> int:
        """Commands whose replies have not come."""
        return len(self._unanswered)

    async def connect(self, within_s: float) -> None:
        """Connect, log in and see the server answer; Unreachable says why not."""
        options = self._options
        try:
            async with asyncio.timeout(within_s):
                if options.path:
                    await self._loop.create_unix_connection(lambda: self, options.path)
                else:
                    name = options.server_name if options.tls is not None else None
                    await self._loop.create_connection(
                        lambda: self, options.host, options.port, ssl=options.tls, server_hostname=name
                    )
                await self._greeted
            if self._transport is None:
                raise Unreachable(self._problem)
            self.opened_at = self.heard_at = clock.monotonic()
        except (OSError, UnicodeError) as error:  # a host's name may be no name at all
            raise Unreachable(reason(error)) from error
        finally:
            if not self.opened_at:
                self.close()

    def send(self, calls: Sequence[Call]) -> None:
        """Send the commands of these calls in one write; only while `can_send`."""
        assert self._transport is not None
        prefix, pack, now = self._options.key_prefix, _pack, clock.monotonic()
        commands: list[bytes] = []
        for call in calls:
            call.run = now
            if call.op is _GET:
                commands.append(pack((b"GET", prefix + call.arguments[0])))
                continue
            key, value, ttl_s = call.arguments
            expiry = (b"EX", ttl_s) if ttl_s > 0 else ()
            commands.append(pack((b"SET", prefix + key, value, *expiry)))
        self._unanswered.extend(calls)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look_at_the_clock)
        self._transport.write(b"".join(commands))

    def close(self) -> list[Call]:
        """Disconnect at once; gives the calls whose replies had not come."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        calls = list(self._unanswered)
        self._unanswered.clear()
        return calls

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in; everything in one write."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if not self._options.path:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._transport.write(b"".join(_pack(command) for command, _ in self._greeting))

    def connection_lost(self, error: Exception | None) -> None:
        """The server, or the way to it, has ended the connection."""
        self._lose(reason(error))

    def data_received(self, data: bytes) -> None:
        """More of the replies."""
        self._reader.feed(data)
        self._partial += len(data)
        try:
            if not self._greeted.done():
                self._receive_greeting()
            self._receive_replies()
        except hiredis.ProtocolError:
            self._lose("it does not speak Redis's protocol")

    def pause_writing(self) -> None:
        """It does not read."""
        self._choked = True

    def resume_writing(self) -> None:
        """It reads again."""
        self._choked = False
        self._on_progress()

    # Parts

    def _receive_greeting(self) -> None:
        while self._greeting and (reply := self._reader.gets()) is not _NOT_YET:
            _, meaning = self._greeting.popleft()
            refused = refusal(str(reply), meaning) if isinstance(reply, hiredis.ReplyError) else ""
            if refused:
                self._lose(refused)
                return
            if not self._greeting:
                self._greeted.set_result(None)

    def _receive_replies(self) -> None:
        gets, calls, before = self._reader.gets, self._unanswered, len(self._unanswered)
        while calls and (reply := gets()) is not _NOT_YET:
            call = calls.popleft()
            if type(reply) is bytes and call.op is _GET:
                call.answer(reply)
            elif reply == b"OK":
                call.answer(b"")
            elif reply is None and call.op is _GET:
                call.fail(NOT_FOUND)
            elif isinstance(reply, hiredis.ReplyError):
                self._fail(call, str(reply))
            else:
                calls.appendleft(call)
                raise hiredis.ProtocolError
        if not calls and self._greeted.done() and self._reader.has_data():
            raise hiredis.ProtocolError
        if len(calls) < before:
            self.heard_at = clock.monotonic()
            self._partial = 0
            if self._is_stale:
                self._lose("it has become a read-only replica")
            else:
                self._on_progress()
        elif calls and self._partial > LARGEST_REPLY:
            calls.popleft().fail(CallFailed(f"redis: the value is larger than {LARGEST_REPLY >> 20} MiB"))
            self._lose("a value is too large to be read")

    def _fail(self, call: Call, text: str) -> None:
        call.fail(failure(text))
        if is_read_only(text) and clock.monotonic() - self.opened_at > MASTER_MOVED_S:
            self._is_stale = True

    def _look_at_the_clock(self) -> None:
        """The server has its time from the sending of what it owes, or from its last reply."""
        self._timer = None
        if self._unanswered:
            left_s = max(self._unanswered[0].run, self.heard_at) + self._timeout_s - clock.monotonic()
            if left_s <= 0:
                self._lose("it does not answer")
            else:
                self._timer = self._loop.call_later(left_s, self._look_at_the_clock)

    def _lose(self, problem: str) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._problem = problem
        transport.abort()
        if self.opened_at:
            self._on_lost(problem)
        elif not self._greeted.done():
            self._greeted.set_result(None)
