"""nats-py's transport with an end that does not wait, and TLS whose end is no line in the log."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport


class _TlsProtocol(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # there is no half-closed TLS


class WireTransport(TcpTransport):
    """A connection that ends at once when it is closed: a graceful end waits for a peer that may never read again."""

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """TLS on the standing connection, with a protocol that knows it: else each end of it is a line in the log."""
        assert self._io_writer is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(buffer_size)
        protocol = _TlsProtocol(reader)
        name = uri if isinstance(uri, str) else uri.hostname
        handshake = loop.start_tls(self._io_writer.transport, protocol, ssl_context, server_hostname=name)
        transport = await asyncio.wait_for(handshake, connect_timeout)
        assert transport is not None
        self._io_reader, self._io_writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def write(self, payload: bytes) -> None:
        """Into nowhere when the connection has just ended: its reader is about to tell, and uvloop would raise."""
        self._put(payload)

    def writelines(self, payload: Iterable[bytes]) -> None:
        """As `write`."""
        self._put(b"".join(payload))

    def _put(self, data: bytes) -> None:
        if data and self._io_writer is not None and not self._io_writer.is_closing():
            self._io_writer.write(data)

    async def drain(self) -> None:
        """Wait until the kernel takes more; raises what ended the connection, not only that it is lost."""
        try:
            await super().drain()  # type: ignore[no-untyped-call]
        except ConnectionError as error:
            cause = None if self._io_reader is None else self._io_reader.exception()
            raise (cause or error) from error

    def close(self) -> None:
        """Drop the connection and what was not sent; whoever cares has flushed before."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    async def wait_closed(self) -> None:
        """Return when it is closed: it was dropped, so a turn of the loop is enough."""
        await asyncio.sleep(0)

    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._io_writer is None else self._io_writer.transport.get_write_buffer_size()
