"""The demo from its first line to its last: start everything, play the scenes, leave nothing running.

Exit status: 0 all was as it should be, 1 not, 2 usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

from scripts.demokit import kept
from scripts.demokit.processes import DemoError, Farm, NatsServer, end, is_alive
from scripts.demokit.scenes import Scenes, connect, request
from scripts.demokit.screen import Screen

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/orders"
DRAIN_S = 30.0
WHOLE_S = 120.0
"""The demo takes seconds; after this long it gives up and cleans up."""


def main() -> int:
    """The command line of scripts/demo."""
    parser = argparse.ArgumentParser(prog="scripts/demo", usage="scripts/demo [--keep | --send SUBJECT TEXT | --stop]")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave the farm up")
    choice.add_argument("--send", nargs=2, metavar=("SUBJECT", "TEXT"), help="send a message to the farm that was kept")
    choice.add_argument("--stop", action="store_true", help="stop the farm that was kept")
    arguments = parser.parse_args()
    screen = Screen()
    try:
        if arguments.stop:
            screen.note("stopped" if kept.stop() else "no demo was kept")
        elif arguments.send:
            asyncio.run(_send(screen, *arguments.send))
        elif arguments.keep and kept.nats_url():
            screen.note("a demo is up already")
            _say_how(screen)
        else:
            _stoppable(_demo(screen, arguments.keep))
    except DemoError as error:
        screen.failed(str(error))
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.failed("interrupted; everything is stopped")
        return 130
    return 0


def _stoppable(demo: Coroutine[None, None, None]) -> None:
    """Run it so that SIGTERM, SIGHUP and Ctrl-C cancel it, which cleans up."""

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            async with asyncio.timeout(WHOLE_S):
                await demo
        except TimeoutError as error:
            raise DemoError(f"not done after {WHOLE_S:g} s") from error

    asyncio.run(run())


async def _demo(screen: Screen, keep: bool) -> None:
    with contextlib.ExitStack() as cleanup:
        folder = kept.make_folder() if keep else Path(tempfile.mkdtemp(prefix="atmo-farm-demo-"))
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        application = folder / "orders"
        shutil.copytree(EXAMPLE, application)
        screen.scene("A NATS server and the farm: atmo-farm start examples/orders (a copy of it)")
        server = NatsServer(folder, keep)
        cleanup.callback(end, server.process, 5.0)
        url = await server.ready()
        screen.note(f"NATS       {url}")
        database = _make_database(folder / "orders.db", application / "schema.sql")
        screen.note(f"database   {database}: SQLite, made from examples/orders/schema.sql")
        farm = Farm(application, folder, url, database, keep)
        cleanup.callback(end, farm.process, DRAIN_S)
        await farm.notified("READY=1")
        client = await connect(url)
        scenes = Scenes(screen, farm, client, application, database)
        screen.note(f"master     pid {farm.process.pid}")
        scenes.workers()
        try:
            await scenes.play()
        finally:
            await client.close()
        if keep:
            kept.remember(url, farm.process.pid, server.process.pid)
            cleanup.pop_all()
            screen.end("The farm stays up.")
            _say_how(screen)
            return
        screen.scene("SIGTERM: the farm drains and ends")
        workers = farm.workers()
        status = end(farm.process, DRAIN_S)
        left = [name for name, pid in workers.items() if is_alive(pid)]
        screen.note(f"exit status {status}, {len(workers)} workers ended, {len(left)} left")
        if status or left:
            raise DemoError(f"the farm did not stop cleanly: exit status {status}, left: {left}")
    screen.end("Done: nothing is left running.")


def _make_database(path: Path, schema: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(schema.read_text())
    connection.close()
    return path


async def _send(screen: Screen, subject: str, text: str) -> None:
    url = kept.nats_url()
    if not url:
        raise DemoError("no demo is up: scripts/demo --keep starts one")
    client = await connect(url)
    try:
        await request(client, screen, subject, text)
    finally:
        await client.close()


def _say_how(screen: Screen) -> None:
    folder = kept.folder()
    for what, how in (
        ("NATS", kept.nats_url()),
        ("application", f"{folder}/orders (a copy: edit it, then reload)"),
        ("database", f"{folder}/orders.db"),
        ("log", f"tail -f {folder}/farm.log"),
        ("send", "scripts/demo --send labels.berlin Mara"),
        ("reload", f"kill -HUP $(cat {folder}/run/*.pid)"),
        ("stop", "scripts/demo --stop"),
    ):
        screen.note(f"{what:<12}{how}")


if __name__ == "__main__":
    sys.exit(main())
