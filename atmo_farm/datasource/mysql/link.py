"""One connection of the driver's: a statement goes out, and its answer is read when it is there.

    send ── up to SMALL bytes ──► on the loop: an idle socket takes them at once
         └─ more ───────────────► on a thread
    readable ── whole answer ───► on the loop: nothing is left to wait for                            wire
             └─ anything else ──► on a thread, row by row: a large answer, or one that TLS hides

The driver's traps, and how they are avoided here. It refuses a second thread: each thing is done by one side at a time,
and the socket is watched and cut through a duplicate. The text in an exception is a null pointer when it is not UTF-8:
only its number is taken, and `error` asked for the text. Freeing an answer that was not read to its end, as one over
the cap, reads it to its end with the GIL held: the connection is closed before that.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.mysql.driver import Handle
from atmo_farm.datasource.mysql.failures import TOO_LONG, DriverFailed, number_of
from atmo_farm.datasource.mysql.reader import Names, Reader
from atmo_farm.datasource.mysql.wire import WINDOW, head_of_whole
from atmo_farm.datasource.threads import Threads

SMALL = 8192
"""Bytes that the send buffer of an idle socket always has room for."""

_DEPRECATE_EOF = 1 << 24
_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT
_LOST = 2013
_window = bytearray(WINDOW + 16)
"""Of all links: it is filled and looked at in one go."""


class Link:
    """On an open handle. `error_type` is what the driver raises; `limits` and `names` as in Reader."""

    may_peek = False
    """Answers may be looked at in the socket: there is no TLS."""

    def __init__(self, handle: Handle, error_type: type[Exception], threads: Threads, limits: Limits, names: Names):
        self.handle = handle
        self.thread_id = handle.thread_id()
        self.literal = handle.string_literal
        """A text in quotes, for this connection; not while a statement runs."""
        self._error_type = error_type
        self._threads = threads
        self._reader = Reader(handle, limits, names)
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(fileno=os.dup(handle.fileno()))
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._answer: asyncio.Future[bytes] | None = None
        self._wants_rows = False
        self._job: asyncio.Future[Any] | None = None
        """What a thread does with the handle."""
        self._is_cut = self._is_closed = self._is_watched = False
        self._watch()

    def has_no_tls(self) -> None:
        """What comes through the socket can be read there."""
        self.may_peek = not self.handle.client_flag & self.handle.server_capabilities & _DEPRECATE_EOF

    def send(self, text: bytes, wants_rows: bool) -> asyncio.Future[bytes]:
        """Run a statement; its answer comes as JSON, rows or what was changed. The future raises DriverFailed, or
        CallFailed when the answer is over the limits; `is_spent` says then whether the link can be used again."""
        answer = self._answer = self._loop.create_future()
        self._wants_rows = wants_rows
        if len(text) > SMALL:
            self._on_thread(partial(self._send, text), self._sent)
        elif (failed := self._send(text)) is not None:
            self._end(failed)
        elif not self._is_watched:
            self._watch()
        return answer

    @property
    def is_spent(self) -> bool:
        """It cannot be used any more."""
        return self._is_cut or self._is_closed

    def is_lost(self) -> bool:
        """Whether it is spent, or the server has ended it while it was idle."""
        return self.is_spent or bool(self._poller.poll(0))

    def cut(self) -> None:
        """Break the connection: what waits for it, on the loop or on a thread, gets an error at once."""
        if not self._is_cut:
            self._is_cut = True
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer was faster
                pass

    def close(self) -> None:
        """Disconnect; with a goodbye to the server when nothing is under way."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unwatch()
        if self._job is not None or self._answer is not None:
            self.cut()
        if self._job is not None:
            self._job.add_done_callback(lambda _: self._let_go())
        elif self.may_peek or self._is_cut:
            self._let_go()
        else:
            self._threads.run(self._let_go)  # with TLS the driver waits for the peer's goodbye

    def _let_go(self) -> None:
        self._close_handle()
        self._socket.close()

    def _close_handle(self) -> None:
        try:
            self.handle.close()
        except self._error_type:  # it is closed already
            pass

    # On the loop

    def _watch(self) -> None:
        if not self._is_watched and not self.is_spent:
            self._is_watched = True
            self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._socket.fileno())

    def _on_readable(self) -> None:
        if self._answer is None:
            self._unwatch()  # the server has ended it: is_lost will say so
            return
        if self.may_peek:
            try:
                size = self._socket.recv_into(_window, WINDOW, _PEEK)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            head = head_of_whole(_window, size)
            if head or not size:
                self._end(self._read(bytes(_window[:head])))
                return
        self._on_thread(partial(self._read, None), self._end)

    def _end(self, outcome: bytes | BaseException) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if isinstance(outcome, bytes):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    def _sent(self, failed: BaseException | None) -> None:
        if failed is not None:
            self._end(failed)
        elif self._is_cut:
            self._end(DriverFailed(_LOST))

    def _on_thread(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """The handle belongs to a thread until that is done."""
        self._unwatch()
        self._job = self._threads.run(job)
        self._job.add_done_callback(partial(self._off_thread, then))

    def _off_thread(self, then: Callable[[Any], None], job: asyncio.Future[Any]) -> None:
        self._job = None
        self._watch()
        then(job.exception() or job.result())

    # On the loop or on a thread

    def _send(self, text: bytes) -> DriverFailed | None:
        try:
            self.handle.send_query(text)
        except self._error_type as error:
            number = number_of(error)
        else:
            return None
        return self._failed(number, sent=False)

    def _read(self, head: bytes | None) -> bytes | Exception:
        """The answer, read to its end, or the link is cut. `head` as in Reader.read."""
        try:
            return self._reader.read(head, self._wants_rows)
        except self._error_type as error:
            number = number_of(error)
        except CallFailed as error:
            if not self._reader.is_at_end():
                self._cut_and_close()
            return error
        except BaseException:
            self._cut_and_close()
            raise
        return self._failed(number)

    def _cut_and_close(self) -> None:
        self.cut()
        self._close_handle()

    def _failed(self, number: int, sent: bool = True) -> DriverFailed:
        """What the driver's error is."""
        if number == _LOST and not self._is_cut and not self._peer_is_gone():
            number = TOO_LONG
        try:
            text = self.handle.error()
        except (self._error_type, UnicodeDecodeError):
            text = ""
        failed = DriverFailed(number, text, sent)
        if failed.ends_connection:
            self.cut()
        return failed

    def _peer_is_gone(self) -> bool:
        """Whether it was the server that ended this connection, or else the driver."""
        try:
            return not self._socket.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
