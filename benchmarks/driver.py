"""A load driver in a process of its own: requests with a bounded number in flight, or at a fixed rate.

`python -m benchmarks.driver URL SUBJECT --in-flight N --seconds S [--rate R]` prints one line of JSON:
answered, seconds, and the latencies' p50, p99 in milliseconds.

It speaks just enough of the protocol on a bare socket: with a client library's 20 µs for each request it would be what
is measured at high rates, and with a loop's timers it would send bursts.
"""

from __future__ import annotations

import argparse
import json
import secrets
import select
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

PAYLOAD = b"x" * 100
SILENCE_S = 5.0
LEAST_WAIT_S = 1e-3
"""Between two sends at a rate: one for each request would keep server and driver busier than what is measured."""


class Wire:
    """One connection; answers come on a wildcard subject whose last word is the request's number."""

    def __init__(self, url: str, subject: str):
        place = urlsplit(url)
        self.socket = socket.create_connection((place.hostname, place.port or 4222))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._inbox = b"_INBOX." + secrets.token_hex(8).encode()
        self._subject = subject.encode()
        self._unsent = b""
        self._unread = b""
        self.socket.sendall(b'CONNECT {"verbose":false}\r\nSUB ' + self._inbox + b".* 1\r\nPING\r\n")
        while b"PONG\r\n" not in self._unread:
            self._unread += self.socket.recv(1 << 16)
        self._unread = self._unread.partition(b"PONG\r\n")[2]
        self.socket.setblocking(False)

    def request(self, numbers: range) -> None:
        """Send these, with what was not yet sent."""
        head, tail = b"PUB %s %s." % (self._subject, self._inbox), b" %d\r\n%s\r\n" % (len(PAYLOAD), PAYLOAD)
        self._unsent += b"".join([head + b"%d" % number + tail for number in numbers])
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass

    def wait(self, seconds: float) -> bool:
        """Until there is something to read, or room for what is not sent; whether there is something to read."""
        reads, writes, _ = select.select([self.socket], [self.socket] if self._unsent else [], [], seconds)
        if writes:
            self.request(range(0))
        return bool(reads)

    def answers(self) -> Iterator[int]:
        """Numbers of the answers that are there."""
        data = self._unread + self.socket.recv(1 << 18)
        at = 0
        while (line_end := data.find(b"\r\n", at)) >= 0:
            if data.startswith((b"MSG ", b"HMSG "), at):
                words = data[at:line_end].split(b" ")
                following = line_end + 2 + int(words[-1]) + 2
                if following > len(data):
                    break
                yield int(words[1].rpartition(b".")[2])
                at = following
                continue
            if data.startswith(b"PING", at):
                self._unsent += b"PONG\r\n"
            elif data.startswith(b"-ERR", at):
                raise RuntimeError(data[at:line_end].decode())
            at = line_end + 2
        self._unread = data[at:]


def drive(url: str, subject: str, in_flight: int, seconds: float, rate: float, count: int) -> dict[str, Any]:
    """Send until the time or the count is used up, then wait for the last answers."""
    wire = Wire(url, subject)
    sent: list[float] = []
    """When, by number."""
    latencies: list[float] = []
    began = heard = time.perf_counter()
    end = began + seconds if seconds else float("inf")
    while True:
        now = time.perf_counter()
        over = now >= end or bool(count and len(sent) >= count)
        if not over:
            due = int((now - began) * rate) - len(sent) if rate else in_flight - (len(sent) - len(latencies))
            if count:
                due = min(due, count - len(sent))
            if due > 0:
                first = len(sent)
                sent.extend([now] * due)
                wire.request(range(first, first + due))
        elif len(latencies) == len(sent) or now - heard > SILENCE_S:
            break
        patience_s = max(LEAST_WAIT_S, began + (len(sent) + 1) / rate - now) if rate and not over else 0.1
        if wire.wait(patience_s):
            heard = time.perf_counter()
            latencies.extend([heard - sent[number] for number in wire.answers()])
    took = time.perf_counter() - began
    latencies.sort()
    p = [latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99)] if latencies else [0.0, 0.0]
    return {
        "answered": len(latencies), "lost": len(sent) - len(latencies), "seconds": took, "p50_ms": p[0], "p99_ms": p[1]
    }  # fmt: skip


def main() -> None:
    """Parse the command line and print the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("subject")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0)
    o = parser.parse_args()
    print(json.dumps(drive(o.url, o.subject, o.in_flight, o.seconds, o.rate, o.count)))


if __name__ == "__main__":
    main()
