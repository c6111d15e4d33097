"""`atmo-farm start`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from atmo_farm import log
from atmo_farm.cli.session import exit_codes, in_force, settings_options, verb_settings
from atmo_farm.errors import AtmoFarmError, CannotStart
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.cli")


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 1, 2, 3, 70)
    + """

\b
Signals: TERM or INT drains and ends, a second one ends at once; HUP reloads; USR1 opens the log file anew.

\b
Examples:
  atmo-farm start
  atmo-farm start ./shop --env-file shop.env --log-level debug
  ATMO_BUNDLE_PATH=/srv/shop.wasm.zip atmo-farm start --workers 4 --require-connections""",
)
@click.argument("app", required=False, type=click.Path(path_type=Path))
@settings_options
def start(app: Path | None, env_file: Path | None, **flags: Any) -> int:
    """Serve the stream handlers of an application.

    APP is a bundle or a project folder; without it ATMO_BUNDLE_PATH, else ./runnables.wasm.zip, else this folder.
    """
    force = in_force(env_file, flags)
    settings = force.loaded.settings
    if settings.headless:
        origin = next(value.origin for value in force.loaded.values if value.key.field == "headless")
        raise CannotStart(f"headless mode ({origin}) is not served by this build; set ATMO_HEADLESS=false")
    log.configure(
        settings.log_level,
        settings.log_format,
        settings.log_file,
        {"app": settings.app_name, "process": "master"},
        secrets=(settings.tracer.honeycomb_api_key,),
    )
    try:
        return _run(app, settings, force.environ)
    except AtmoFarmError as error:
        if settings.log_file is not None:
            log.event(logger, logging.ERROR, "the farm ends", reason=str(error))
        raise


def _run(app: Path | None, settings: Settings, environ: Mapping[str, str]) -> int:
    from atmo_farm.master import Master
    from atmo_farm.tools.source import find, wait_for

    source = find(app, settings)
    if settings.wait:
        log.event(logger, logging.INFO, "waiting for the application's files", path=str(source))
        wait_for(source)
    return Master(source, settings, environ).run()
