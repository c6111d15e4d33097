"""nats-py's parser with a loop over messages that is short: no regular expression, no queue behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nats import errors
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

if TYPE_CHECKING:
    from atmo_farm.streams.nats_client import WireClient

Sink = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes a message off the wire: subject, reply subject or nothing, header block or nothing, payload. Must not block."""

LONGEST_LINE = 1 << 20
"""Bytes of a control line: an INFO names all servers of a cluster, but what is longer is not NATS."""


class WireParser(Parser):
    """Cuts messages out of a chunk in one pass; control lines and messages that span chunks are nats-py's."""

    async def parse(self, data: bytes = b"") -> None:
        """Take the next chunk off the wire; ProtocolError and OSError make nats-py reconnect."""
        client: WireClient = self.nc
        client.heard += 1
        try:
            await self._parse(client, data)
        except (errors.ProtocolError, OSError):
            raise
        except Exception as error:  # anything else ends nats-py's reader for good
            raise errors.ProtocolError from error
        for told in client.after_chunk:
            told()

    async def _parse(self, client: WireClient, data: bytes) -> None:
        if self.buf and self.state != AWAITING_MSG_PAYLOAD:
            data = bytes(self.buf) + data
            self.buf.clear()
        sinks = client.sinks
        position, end = 0, len(data)
        while position < end:
            if self.state == AWAITING_MSG_PAYLOAD:
                stop = min(end, position + self.needed + 2 - len(self.buf))
                await super().parse(data[position:stop])
                position = stop
                continue
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                if end - position > LONGEST_LINE:
                    raise errors.ProtocolError
                self.buf.extend(data[position:])
                return
            words = data[position:line_end].split()
            start = line_end + 2
            verb = words[0] if words else b""
            if verb == b"MSG":
                body, count = start, len(words)
                stop = start + int(words[-1])
                reply = words[3] if count == 5 else b""
            elif verb == b"HMSG":
                body, count = start + int(words[-2]), len(words) - 1
                stop = start + int(words[-1])
                reply = words[3] if count == 5 else b""
            else:
                await super().parse(data[position:start])
                if self.buf:  # nats-py waits for more of a line that it does not know
                    raise errors.ProtocolError
                position = start
                continue
            if not (start <= body <= stop and 4 <= count <= 5):
                raise errors.ProtocolError
            if stop + 2 > end:
                await super().parse(data[position:])
                if self.state != AWAITING_MSG_PAYLOAD:
                    raise errors.ProtocolError
                return
            position = stop + 2
            sink = sinks.get(words[2])
            if sink is not None:
                sink(words[1], reply, data[start:body], data[body:stop])
            else:
                await client._process_msg(int(words[2]), words[1], reply, data[body:stop], data[start:body])
