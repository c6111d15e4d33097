"""The monitor process, from the fork to its exit code. It ends on SIGTERM, after all other children: the master tells
it last, so that whoever asked for the end hears of it."""

from __future__ import annotations

import asyncio
import logging
import signal

from atmo_farm import log
from atmo_farm.ipc.arena import Field, State
from atmo_farm.ipc.channel import ChildChannel
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.ipc.heartbeat import Heartbeat
from atmo_farm.ipc.messages import Command, LogLevel, ReopenLog, Told
from atmo_farm.monitor.context import MonitorContext
from atmo_farm.monitor.farm import Farm
from atmo_farm.monitor.http import HttpServer
from atmo_farm.monitor.server import Server
from atmo_farm.monitor.verbs import VERBS
from atmo_farm.monitor.watch import Watch

logger = logging.getLogger("atmo_farm.monitor")


async def run(context: MonitorContext) -> ChildExit:
    """Answer until told to stop; returns what the process must exit with."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[ChildExit] = loop.create_future()
    channel = ChildChannel(context.channel)
    farm = Farm(context, channel)

    def finish(how: ChildExit) -> None:
        if not end.done():
            end.set_result(how)

    def command(command: Command) -> None:
        if isinstance(command, Told):
            farm.told(command)
        elif isinstance(command, LogLevel):
            log.set_level(command.level)
        elif isinstance(command, ReopenLog):
            log.reopen()

    heartbeat = Heartbeat(context.slot)
    heartbeat.start()
    channel.attach(command, lambda: finish(ChildExit.LOST_MASTER))
    loop.add_signal_handler(signal.SIGTERM, finish, ChildExit.DRAINED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    server = Server(context.path, farm, VERBS)
    try:
        await server.start()
    except OSError as error:
        channel.failed(f"the control socket {context.path} cannot be used: {error.strerror}")
        return ChildExit.BOOT_FAILED
    http = HttpServer(context.http, farm) if context.http is not None else None
    if http is not None:
        http.start()
    watch = None if context.watched is None else loop.create_task(Watch(farm, context.watched).run())
    context.slot[Field.STATE] = State.READY
    channel.ready()
    how = await end
    farm.ending.set()
    if watch is not None:
        watch.cancel()
    if http is not None:
        http.close()
    await server.close()
    heartbeat.stop()
    return how
