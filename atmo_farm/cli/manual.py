"""The man page, made of what `--help` says: `python -m atmo_farm.cli.manual > docs/atmo-farm.1`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from atmo_farm import __version__
from atmo_farm.cli.app import cli
from atmo_farm.cli.session import EXIT_CODES
from atmo_farm.settings.keys import KEYS

NAME = "atmo-farm"

FILES = {
    "Directive.yaml": "The application: what is consumed from where, and which functions run.",
    "/etc/atmo-farm/atmo-farm.yaml": "The settings, if neither --config nor ATMO_FARM_CONFIG names others.",
    "$XDG_RUNTIME_DIR/atmo-farm/IDENTIFIER, /tmp/atmo-farm-UID/IDENTIFIER": "The run folder: pid file and sockets.",
    "~/.local/state/atmo-farm/IDENTIFIER": "The state folder: compiled modules, accepted generations, dead letters.",
}
SIGNALS = {
    "TERM, INT": "Drain and end; a second one ends at once.",
    "HUP": "Reload.",
    "USR1": "Open the log file anew.",
}
OTHER_EXIT_CODES = {130: "ended by Ctrl-C", 141: "the reader of standard output went away"}


def page() -> str:
    """The whole page, in roff for man(7)."""
    lines = [f'.TH ATMO-FARM 1 "" "atmo-farm {__version__}" "User Commands"', ".ad l"]
    lines += [".SH NAME", f"{escaped(NAME)} \\- {escaped(_sentence(cli.help))}"]
    lines += [".SH SYNOPSIS", f".B {escaped(NAME)}", escaped("COMMAND [OPTIONS] [ARGUMENTS]…")]
    lines += [".SH COMMANDS", escaped("-h, --help shows the same for one command.")]
    for name, command in _leaves(cli, NAME):
        lines += _command(name, command)
    lines += _list("SIGNALS", {f"SIG{name.replace(', ', ', SIG')}": text for name, text in SIGNALS.items()})
    lines += _list("EXIT STATUS", {str(code): text for code, text in (EXIT_CODES | OTHER_EXIT_CODES).items()})
    lines += [".SH ENVIRONMENT", "Each sets a setting, if no option does; conf/atmo\\-farm.yaml says what it means."]
    for key in KEYS:
        lines += [".TP", f".B {escaped(key.environment)}", escaped(key.path + (f", {key.flag}" if key.flag else ""))]
    lines += _list("FILES", FILES)
    lines += [".SH SEE ALSO", ".BR systemctl (1),", ".BR journalctl (1),", ".BR systemd.exec (5)"]
    return "\n".join(lines) + "\n"


def _leaves(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, with its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def _command(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.SS "{escaped(name)} {escaped(usage)}"', *_paragraphs(command.help)]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts and record is not None:
            option, text = record
            lines += [".TP", f".B {escaped(option)}", escaped(" ".join(text.split()))]
    return lines + _paragraphs(command.epilog)


def _paragraphs(text: str | None) -> list[str]:
    """Help text as click reads it: lines after \\b stay as they are. Exit codes stand in a section of their own."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        if paragraph.startswith("\b\nExit codes:") or not paragraph:
            continue
        lines.append(".PP")
        if paragraph.startswith("\b\n"):
            lines += [".nf", *map(escaped, paragraph[2:].split("\n")), ".fi"]
        else:
            lines.append(escaped(" ".join(paragraph.split())))
    return lines


def _list(title: str, items: dict[str, str]) -> list[str]:
    lines = [f".SH {title}"]
    for name, text in items.items():
        lines += [".TP", f".B {escaped(name)}", escaped(text)]
    return lines


def _sentence(text: str | None) -> str:
    first = inspect.cleandoc(text or "").split("\n\n")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def escaped(text: str) -> str:
    """The text as roff prints it."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace('"', "\\(dq")
    return re.sub(r"^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    click.echo(page(), nl=False)
