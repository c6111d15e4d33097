"""What the demo shows, scene by scene."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from scripts.demokit.processes import DemoError, Farm, LogLine
from scripts.demokit.screen import Screen

ERROR_CODE, ERROR_TEXT = "Nats-Service-Error-Code", "Nats-Service-Error"
ANSWER_WITHIN_S = 5.0
ORDERS = 2_000
ROWS_WITHIN_S = 30.0
"""Of the orders of the kill: a slow disk makes each commit slow."""

SHOWN_FIELDS = ("worker", "pid", "handler", "function", "subject", "cause", "code", "reason")

NEW_HANDLER = """
  # Added by scripts/demo while the farm runs.
  - type: stream
    source: nats
    name: parcels
    resource: parcels.*
    steps:
      - fn: label
"""


async def connect(url: str) -> Client:
    """A client of the demo's own."""
    return await nats.connect(url, connect_timeout=5, max_reconnect_attempts=1)


async def request(client: Client, screen: Screen, subject: str, data: str) -> None:
    """Send a request and show the answer, which may be an error."""
    screen.sent(subject, data)
    began = time.monotonic()
    try:
        answer = await client.request(subject, data.encode(), timeout=ANSWER_WITHIN_S)
    except NoRespondersError:
        screen.refused(subject, "no responders", "nobody listens on this subject", time.monotonic() - began)
        return
    except NatsTimeoutError:
        screen.note(f"no answer within {ANSWER_WITHIN_S:g} s")
        return
    show(screen, "the sender", answer, time.monotonic() - began)


def show(screen: Screen, where: str, message: Msg, took_s: float) -> None:
    """One message that came out."""
    headers = message.headers or {}
    if ERROR_CODE in headers:
        screen.refused(where, headers[ERROR_CODE], headers.get(ERROR_TEXT, ""), took_s)
    else:
        screen.received(where, message.data.decode(), headers, took_s)


class Scenes:
    """The demo's play; `application` is a copy of the example that may be changed."""

    def __init__(self, screen: Screen, farm: Farm, client: Client, application: Path, database: Path):
        self._screen = screen
        self._farm = farm
        self._client = client
        self._directive = application / "Directive.yaml"
        self._database = database

    async def play(self) -> None:
        """All of them but the end."""
        await self.messages()
        await self.data()
        await self.errors()
        await self.kill()
        await self.refused_reload()
        await self.reload()

    def workers(self) -> None:
        """Who serves what."""
        for name, pid in self._farm.workers().items():
            self._screen.note(f"{name:<14} pid {pid}")

    async def messages(self) -> None:
        """What goes in and what comes out."""
        screen = self._screen
        screen.scene("Messages: a group of two functions, then a third (Rust and AssemblyScript)")
        await self._order({"id": "A-17", "customer": "mara", "sku": "tea", "count": 3})
        screen.note("too few on the shelf: `stock` answers 409, the Directive says onErr 409: continue")
        await self._order({"id": "A-18", "customer": "mara", "sku": "kettle", "count": 9})
        screen.note("another handler (C) watches the receipts and only logs")
        for _ in range(2):
            self._show_log(await self._farm.logged(lambda line: line.get("guest") is True, "the audit function"))
        screen.scene("Request and reply: a wildcard subject (C), and a plain WASI program (stdin to stdout)")
        await request(self._client, screen, "labels.berlin", "Mara")
        await request(self._client, screen, "labels.oslo", "Edvard")
        await request(self._client, screen, "words.count", "nothing is lost but what it held")

    async def data(self) -> None:
        """What came in was written into the database; it is read back, from there and from the cache."""
        self._screen.scene("A database and a cache: handler `ledger` has written each receipt down, with SQL")
        await self._rows(2)
        for row in self._select("SELECT * FROM orders ORDER BY rowid"):
            self._screen.note(f"row in the file: {row}")
        await request(self._client, self._screen, "history.mara", "")
        self._screen.note("a customer's last order is in the cache, for an hour; else the database is asked:")
        await request(self._client, self._screen, "last.mara", "")
        await request(self._client, self._screen, "last.nobody", "")

    async def errors(self) -> None:
        """A permanent failure."""
        self._screen.scene("An error: nobody sells this, `price` answers 404, and the sender is told")
        await request(self._client, self._screen, "orders.new", '{"id":"A-19","sku":"anvil","count":1}')
        self._show_log(await self._farm.logged(lambda line: line.get("function") == "price", "the failure"))

    async def kill(self) -> None:
        """A consumer dies in the middle of its work and is replaced; the other one of its queue group goes on."""
        pid = self._farm.workers()["orders/0"]
        self._screen.scene(f"kill -9 {pid}, one of two consumers of orders.new, while {ORDERS} orders come in")
        receipts = 0

        async def count(_: Msg) -> None:
            nonlocal receipts
            receipts += 1

        subscription = await self._client.subscribe("orders.receipts", cb=count)
        for number in range(ORDERS):
            await self._client.publish("orders.new", b'{"id":"B-%d","customer":"tom","sku":"cup","count":1}' % number)
            if number == ORDERS // 2:
                killed_at = datetime.datetime.now(datetime.UTC)
                os.kill(pid, signal.SIGKILL)
            if number % 25 == 0:
                await self._client.flush()
                await asyncio.sleep(0.01)
        await self._client.flush()
        self._show_log(await self._farm.logged(_worker("worker ended", "orders/0"), "the death"))
        line = await self._farm.logged(_worker("worker ready", "orders/0"), "the replacement")
        back = datetime.datetime.fromisoformat(line["time"]) - killed_at
        self._screen.note(f"back as pid {line['pid']}, {back.total_seconds() * 1000:.0f} ms after the kill")
        seen = -1
        while seen != receipts < ORDERS:
            seen = receipts
            await asyncio.sleep(0.5)
        self._screen.note(
            f"{ORDERS} orders, {receipts} receipts: {ORDERS - receipts} were in the process that was killed"
        )
        await self._rows(receipts)
        ((kept, counted),) = self._select("SELECT count(*), (SELECT sum(orders) FROM customers) FROM orders")
        self._screen.note(f"{kept} orders are in the database, {counted} are counted for their customers")
        await subscription.unsubscribe()

    async def refused_reload(self) -> None:
        """A reload with a mistake changes nothing."""
        self._screen.scene("Reload (SIGHUP) with a mistake in Directive.yaml: the farm says where and goes on")
        good = self._directive.read_text()
        self._directive.write_text(good.replace("- fn: label", "- fn: lable"))
        self._farm.process.send_signal(signal.SIGHUP)
        await self._farm.notified("RELOADING=1")
        await self._farm.notified("READY=1")
        line = await self._farm.logged(lambda line: "lable" in str(line.get("message")), "the mistake")
        self._show_log(line)
        await request(self._client, self._screen, "labels.rome", "Gianni")
        self._directive.write_text(good)

    async def reload(self) -> None:
        """A reload restarts what changed and nothing else."""
        self._screen.scene("Reload (SIGHUP): a new handler, parcels.*, and 3 workers instead of 2 for the orders")
        await request(self._client, self._screen, "parcels.quito", "Ana")
        before = self._farm.workers()
        changed = self._directive.read_text().replace("    workers: 2 ", "    workers: 3 ") + NEW_HANDLER
        self._directive.write_text(changed)
        self._farm.process.send_signal(signal.SIGHUP)
        await self._farm.notified("RELOADING=1")
        await self._farm.notified("READY=1")
        for name, pid in self._farm.workers().items():
            was = "new" if name not in before else "untouched" if before[name] == pid else f"was {before[name]}"
            self._screen.note(f"{name:<14} pid {pid:<8} {was}")
        await request(self._client, self._screen, "parcels.quito", "Ana")

    async def _order(self, order: dict[str, object]) -> None:
        receipts = await self._client.subscribe("orders.receipts")
        await self._client.flush()
        text = json.dumps(order, separators=(",", ":"))
        self._screen.sent("orders.new", text)
        began = time.monotonic()
        await self._client.publish("orders.new", text.encode())
        try:
            show(self._screen, "orders.receipts", await receipts.next_msg(ANSWER_WITHIN_S), time.monotonic() - began)
        except NatsTimeoutError as error:
            raise DemoError(f"no receipt within {ANSWER_WITHIN_S:g} s") from error
        await receipts.unsubscribe()
        await asyncio.sleep(0)

    async def _rows(self, least: int) -> None:
        """Wait until so many orders are written down: the ledger works behind the receipts."""
        deadline = time.monotonic() + ROWS_WITHIN_S
        while self._select("SELECT count(*) FROM orders")[0][0] < least:
            if time.monotonic() > deadline:
                raise DemoError(f"not {least} orders in the database within {ROWS_WITHIN_S:g} s")
            await asyncio.sleep(0.02)

    def _select(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database itself, without the farm."""
        connection = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def _show_log(self, line: LogLine) -> None:
        more = "".join(f" {name}={line[name]}" for name in SHOWN_FIELDS if line.get(name) not in (None, ""))
        self._screen.log(line.get("level", ""), line.get("process", ""), f"{line.get('message')}{more}")


def _worker(message: str, name: str) -> Callable[[LogLine], bool]:
    return lambda line: line.get("message") == message and line.get("worker") == name
