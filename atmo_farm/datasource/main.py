"""The data source process, from the fork to its exit code: it listens at once, and connects behind that.

A source that is out of reach costs only those who ask it; whoever needs one asks by STATE whether it is there. It ends
on SIGTERM, after the consumers: the master stops it last.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from atmo_farm import log
from atmo_farm.datasource import build
from atmo_farm.datasource.context import ProxyContext
from atmo_farm.datasource.server import Server
from atmo_farm.ipc.arena import Field, State
from atmo_farm.ipc.channel import ChildChannel
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.ipc.heartbeat import Heartbeat
from atmo_farm.ipc.messages import Command, LogLevel, ReopenLog

logger = logging.getLogger("atmo_farm.datasource")

FIGURES_EVERY_S = 1.0
"""How often it is written into the arena how the sources are."""


async def run(context: ProxyContext) -> ChildExit:
    """Serve until told to stop; returns what the process must exit with."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[ChildExit] = loop.create_future()

    def finish(how: ChildExit) -> None:
        if not end.done():
            end.set_result(how)

    context.slot[Field.STATE] = State.BOOTING
    heartbeat = Heartbeat(context.slot)
    heartbeat.start()
    channel = ChildChannel(context.channel)
    channel.attach(_command, lambda: finish(ChildExit.LOST_MASTER))
    loop.add_signal_handler(signal.SIGTERM, finish, ChildExit.DRAINED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        sources = build.sources(context.directive, context.settings.data_sources)
        server = Server(sources, context.path)
        await sources.open()
        await server.start()
    except Exception as error:
        logger.debug("boot failed", exc_info=error)
        channel.failed(f"{type(error).__name__}: {error}")
        return ChildExit.BOOT_FAILED

    def write_figures() -> None:
        sources.write_figures(context.slot)
        loop.call_later(FIGURES_EVERY_S, write_figures)

    write_figures()
    context.slot[Field.STATE] = State.READY
    channel.ready()
    how = await end
    await server.close()
    await sources.close()
    heartbeat.stop()
    return how


def _command(command: Command) -> None:
    if isinstance(command, LogLevel):
        log.set_level(command.level)
    elif isinstance(command, ReopenLog):
        log.reopen()
