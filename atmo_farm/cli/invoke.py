"""`atmo-farm invoke`."""

from __future__ import annotations

import base64
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atmo_farm import log
from atmo_farm.cli.session import (
    config_option,
    debug_option,
    env_file_option,
    exit_codes,
    in_force,
    say,
    verb_settings,
)
from atmo_farm.errors import GuestFailed, GuestTimedOut, RunnableError, TimedOut

if TYPE_CHECKING:
    from atmo_farm.settings import Settings
    from atmo_farm.tools.invoke import Invoked, LogLine

logger = logging.getLogger("atmo_farm.guest")

FAILED_CODE = 500
TIMED_OUT_CODE = 504
"""The codes of failures that a function does not name itself, as in a handler's error answer."""


class _Pair(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """`NAME=VALUE`, cut at the first separator."""

    def __init__(self, separator: str):
        self.name = f"NAME{separator}VALUE"
        self._separator = separator

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and value; the blanks around them go where the separator is a colon."""
        if isinstance(value, tuple):
            return value
        name, found, rest = value.partition(self._separator)
        if self._separator == ":":
            name, rest = name.strip(), rest.strip()
        if not found or not name:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return name, rest


@click.command(
    **verb_settings,
    epilog=exit_codes(
        0,
        1,
        2,
        4,
        5,
        70,
        _1='the function failed: {"code","message"} is the last line of standard error, standard output is empty;\n'
        "      or problems in the application's files",
        _4="no such function",
        _5="the function was still running at its deadline",
    )
    + """

\b
Examples:
  atmo-farm invoke . hello --input Ada
  atmo-farm invoke shop.wasm.zip orders::parse --input @order.json --json
  curl -s https://example.com/ | atmo-farm invoke . title --input -
  atmo-farm invoke . greet --method POST --url '/greet/Ada?shout=1' --param name=Ada \\
      --header 'Accept-Language: de' --state user='{"id":7}'""",
)
@click.argument("app", type=click.Path(path_type=Path))
@click.argument("fn")
@click.option(
    "--input", "input_", metavar="TEXT|@FILE|-", default="", help="The body: a text, a file, or standard input."
)
@click.option("--method", default="GET", show_default=True, help="The request's method.")
@click.option("--url", default="/", show_default=True, help="The request's URL, or /path?query.")
@click.option("--header", multiple=True, type=_Pair(":"), metavar="'NAME: VALUE'", help="A header of the request.")
@click.option("--param", multiple=True, type=_Pair("="), metavar="NAME=VALUE", help="A URL parameter.")
@click.option("--state", multiple=True, type=_Pair("="), metavar="KEY=VALUE", help="A value that earlier steps left.")
@click.option("--no-connect", is_flag=True, help="Open no connection: databases and cache are not enabled.")
@click.option("--json", "as_json", is_flag=True, help="Print output, headers, state, logs and duration as JSON.")
@env_file_option
@config_option
@debug_option
def invoke(
    app: Path,
    fn: str,
    input_: str,
    method: str,
    url: str,
    header: tuple[tuple[str, str], ...],
    param: tuple[tuple[str, str], ...],
    state: tuple[tuple[str, str], ...],
    no_connect: bool,
    as_json: bool,
    env_file: Path | None,
    config: str | None,
) -> int:
    """Run one function of an application once and print its output.

    APP is a bundle or a project folder, FN a function: name, namespace::name, or a whole FQFN. The output goes to
    standard output as it is, what the function logs to standard error. A function that asks for data gets the
    databases and the cache of the Directive.
    """
    from atmo_farm import directive
    from atmo_farm.tools import invoke as job
    from atmo_farm.tools.source import absolute

    settings = in_force(env_file, {"config": config}).loaded.settings
    application = directive.load(absolute(app), settings.defaults)
    invocation = job.Invocation(_input(input_), method, url, dict(header), dict(param), _as_bytes(state))
    _configure_log(settings)
    lines: list[LogLine] = []
    on_log = lines.append if as_json else _write_line
    try:
        invoked = job.invoke(application, fn, invocation, settings, on_log, not no_connect)
    except (RunnableError, GuestFailed) as error:
        if as_json:
            for line in lines:
                _write_line(line)
        return _tell_failure(error)
    if as_json:
        click.echo(json.dumps(_as_json(invoked, lines), ensure_ascii=False))
    else:
        sys.stdout.buffer.write(invoked.output)
        if sys.stdout.isatty() and not invoked.output.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    return 0


def _configure_log(settings: Settings) -> None:
    """A function's lines are read by people here, unless the settings say otherwise."""
    style = "text" if settings.log_format == "auto" else settings.log_format
    log.configure(settings.log_level, style)


def _write_line(line: LogLine) -> None:
    log.event(logger, log.LEVELS[line.level], line.text, guest=True)


def _tell_failure(error: RunnableError | GuestFailed) -> int:
    timed_out = isinstance(error, GuestTimedOut)
    code = error.code if isinstance(error, RunnableError) else TIMED_OUT_CODE if timed_out else FAILED_CODE
    say(json.dumps({"code": code, "message": str(error)}, ensure_ascii=True))
    return TimedOut.exit_code if timed_out else RunnableError.exit_code


def _input(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: {error.strerror}", param_hint="'--input'") from error


def _as_bytes(state: tuple[tuple[str, str], ...]) -> dict[str, bytes]:
    return {key: value.encode("utf-8", "surrogateescape") for key, value in state}


def _as_json(invoked: Invoked, lines: list[LogLine]) -> dict[str, object]:
    return {
        **_bytes("output", invoked.output),
        "headers": dict(invoked.headers),
        "state": {key: _text(value) for key, value in invoked.state.items()},
        "logs": [{"level": line.level, "message": line.text} for line in lines],
        "durationMs": round(invoked.duration_s * 1000, 3),
    }


def _bytes(name: str, value: bytes) -> dict[str, str]:
    """UTF-8 as a text; other bytes under NAMEBase64."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(value).decode()}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
