"""The root command, and how every error becomes a line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from atmo_farm import __version__
from atmo_farm.cli import about, dlq, invoke, operate, project, service, start, status, top
from atmo_farm.cli.session import Session, exit_codes, say, verb_settings
from atmo_farm.errors import AtmoFarmError, UserFilesError

INTERNAL = 70
INTERRUPTED = 130
"""128 and SIGINT: what a shell expects of a command that Ctrl-C has ended."""
BROKEN_PIPE = 141
"""128 and SIGPIPE: what the reader of a pipe has ended."""


class _ReaderGoneError(Exception):
    """Standard output leads nowhere any more; a BrokenPipeError click itself would turn into exit code 1."""


class Root(click.Group):
    """Runs a verb and ends the process with the exit code of spec 0, whatever the verb raises."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's; with `standalone_mode` (the default) it exits."""
        session = Session()
        extra = {"obj": session, "color": False if os.environ.get("NO_COLOR") else None, **extra}
        run: Callable[..., Any] = super().main
        if not extra.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **extra)
        try:
            result = run(*args, standalone_mode=False, **extra)
        except Exception as error:
            if session.debug:
                traceback.print_exc()
            code = _tell(error)
        except KeyboardInterrupt:
            code = INTERRUPTED
        else:
            code = result if isinstance(result, int) else 0
        if code == BROKEN_PIPE:  # nothing more can be written; the interpreter must not try at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb, with all that it printed."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _ReaderGoneError from error
        return result


def _tell(error: Exception) -> int:
    """Say on standard error what went wrong; returns the exit code."""
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, _ReaderGoneError):
        return BROKEN_PIPE
    if isinstance(error, click.ClickException):
        try:
            error.show()
        except OSError:
            pass
        return error.exit_code
    color = False if os.environ.get("NO_COLOR") else None
    if isinstance(error, UserFilesError):
        say(str(error), color, "error")
        return error.exit_code
    head = click.style("Error:", fg="red")
    if isinstance(error, AtmoFarmError):
        say(f"{head} {error}", color, "error")
        return error.exit_code
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    say(f"{head} internal error: {' '.join(what.split())}; --debug shows where", color, "error")
    return INTERNAL


@click.command(
    cls=Root,
    **verb_settings,
    epilog=exit_codes(0, 1, 2, 3, 4, 5, 70)
    + """

\b
Examples:
  atmo-farm start                     serve the application in this folder
  atmo-farm check shop.wasm.zip       all that is wrong with a bundle
  atmo-farm invoke . hello --input hi
  atmo-farm COMMAND --help            more examples""",
)
@click.version_option(__version__, message="atmo-farm %(version)s")
def cli() -> None:
    """Run Atmo applications: WebAssembly handlers of NATS streams in a supervised worker farm."""


for verb in (start.start, project.check, project.build, invoke.invoke, project.schema):
    cli.add_command(verb)
for verb in (status.status, top.top, operate.reload, operate.stop, operate.loglevel, dlq.dlq):
    cli.add_command(verb)
cli.add_command(service.install_service)
for verb in (about.config, about.version, about.completion):
    cli.add_command(verb)
