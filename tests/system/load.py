"""Requests at a steady pace, each with its own id, from a thread of their own, and what was answered when.

For core NATS, where an answer is all that can come of a message; of one that a broker keeps, tests/ledger.py tells.
"""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import Callable
from types import TracebackType

import attrs
import nats
from nats.aio.msg import Msg

from tests.farm import Farm

PATIENCE_S = 2.0
"""How long another answer is waited for at the end."""


@attrs.define
class Request:
    """One message that was sent; times are time.monotonic() seconds."""

    sent_at: float
    answered_at: float | None = None
    answers: int = 0
    error: str = ""
    """The text of an answer that is an error."""


class Load:
    """`with Load(url, "in", per_s=200) as load:` sends to one subject until the end of the block.

    Answers are looked for on an inbox of its own; nothing is sent twice. `data` makes a message's data of its number.
    """

    def __init__(self, url: str, subject: str, per_s: float = 200, data: Callable[[int], bytes] = lambda n: b"%d" % n):
        self._data = data
        self._url = url
        self._subject = subject
        self._per_s = per_s
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name=f"load {subject}")
        self.requests: list[Request] = []
        self.error: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        assert self._started.wait(10), "no connection"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more; returns when what was sent had its time to be answered."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def answered(self, since: float = 0.0, until: float = float("inf")) -> int:
        """How many of the requests of this time were answered by now."""
        return sum(since <= request.sent_at < until and request.answers > 0 for request in self.requests)

    def lost(self) -> int:
        """Requests without an answer; after `stop`."""
        return sum(request.answers == 0 for request in self.requests)

    def repeated(self) -> int:
        """Requests with more than one answer."""
        return sum(request.answers > 1 for request in self.requests)

    def unanswered(self, farm: Farm) -> str:
        """What was lost or answered twice, with the farm's log around it: for a failed assertion."""
        wrong = [(number, request) for number, request in enumerate(self.requests) if request.answers != 1]
        lines = [f"{len(self.requests)} sent, {len(wrong)} not answered exactly once"]
        for number, request in wrong[:5]:
            since_s = time.monotonic() - request.sent_at
            moment = datetime.datetime.fromtimestamp(time.time() - since_s, datetime.UTC).isoformat()
            lines.append(f"number {number}, sent at {moment}: {request.answers} answers")
            near = [line for line in farm.log() if abs(_seconds(line["time"]) - time.time() + since_s) < 0.5]
            lines += [
                f"  {line['time']} {line['process']}: {line['message']} {line.get('worker', '')}" for line in near
            ]
        return "\n".join(lines)

    def latencies(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds to the answers to the requests of this time, shortest first; without an answer, infinite."""
        chosen = [request for request in self.requests if since <= request.sent_at < until]
        return sorted(
            float("inf") if request.answered_at is None else request.answered_at - request.sent_at for request in chosen
        )

    def resumed_after_s(self, moment: float) -> float:
        """Seconds from a moment to the first answer that is no error, to a request sent after it; infinite if there is
        none."""
        answers = [
            request.answered_at
            for request in list(self.requests)
            if request.sent_at > moment and request.answered_at is not None and not request.error
        ]
        return min(answers, default=float("inf")) - moment

    def wait_resumed(self, moment: float, timeout_s: float) -> float:
        """As soon as there is one: `resumed_after_s`."""
        deadline = time.monotonic() + timeout_s
        while (resumed_s := self.resumed_after_s(moment)) == float("inf") and time.monotonic() < deadline:
            time.sleep(0.02)
        return resumed_s

    async def _run(self) -> None:
        try:
            client = await nats.connect(self._url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
            inbox = client.new_inbox()
            self._all_answered = asyncio.Event()
            await client.subscribe(f"{inbox}.*", cb=self._take)
            await client.flush()
            self._started.set()
            begin = time.monotonic()
            while not self._stop.is_set():
                due = int((time.monotonic() - begin) * self._per_s)
                while len(self.requests) <= due:
                    number = len(self.requests)
                    self.requests.append(Request(time.monotonic()))
                    await client.publish(self._subject, self._data(number), f"{inbox}.{number}")
                await asyncio.sleep(0.004)
            await client.flush()
            before = -1
            while self.lost() and self.answered() > before:
                before = self.answered()
                try:
                    await asyncio.wait_for(self._all_answered.wait(), PATIENCE_S)
                except TimeoutError:
                    pass
            await client.close()
        except BaseException as error:
            self.error = error
            self._started.set()

    async def _take(self, message: Msg) -> None:
        if (message.headers or {}).get("Status") == "503":  # the server's: nobody listens
            return
        request = self.requests[int(message.subject.rpartition(".")[2])]
        request.answers += 1
        request.error = (message.headers or {}).get("Nats-Service-Error", "")
        if request.answered_at is None:
            request.answered_at = time.monotonic()
            if self._stop.is_set() and not self.lost():
                self._all_answered.set()


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
