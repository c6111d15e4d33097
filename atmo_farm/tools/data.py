"""Data sources for a job that runs one function: the proxy inside this process, on a socket that nobody else knows."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from atmo_farm.capabilities.datasources import DataSources
from atmo_farm.capabilities.rules import Rules
from atmo_farm.consumer.data import wait_for_sources
from atmo_farm.directive.model import Directive
from atmo_farm.errors import CannotStart
from atmo_farm.ipc.client import ProxyClient
from atmo_farm.settings import DataSourceSettings


@asynccontextmanager
async def data_sources(
    directive: Directive, rules: Rules, settings: DataSourceSettings, needed: tuple[str, ...]
) -> AsyncIterator[DataSources]:
    """The data sources of a resolved Directive for the time of the block; CannotStart when one of `needed` is out of
    reach."""
    from atmo_farm.datasource import build
    from atmo_farm.datasource.server import Server

    with tempfile.TemporaryDirectory(prefix="atmo-farm-") as folder:
        sources = build.sources(directive, settings)
        server = Server(sources, Path(folder, "data.sock"))
        client = ProxyClient(Path(folder, "data.sock"), ["invoke"])
        await sources.open()
        try:
            await server.start()
            client.start()
            await wait_for_sources(client, needed, _refuse)
            yield DataSources(client, rules, directive.queries, bool(directive.connections.databases))
        finally:
            await client.close()
            await server.close()
            await sources.close()


def _refuse(name: str, reason: str) -> None:
    raise CannotStart(f"{name} is out of reach: {reason}")
