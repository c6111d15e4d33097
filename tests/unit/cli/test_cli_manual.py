"""The man page in docs/ is the one that the command line would have now."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import click
import pytest

from atmo_farm.cli import manual
from atmo_farm.cli.app import cli

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "atmo-farm.1"


def test_the_page_is_current() -> None:
    """After a change of the command line it is written anew."""
    assert PAGE.read_text() == manual.page(), "run: python -m atmo_farm.cli.manual > docs/atmo-farm.1"


def test_it_is_installed_where_man_looks() -> None:
    """Beside the command's folder: bin/atmo-farm, share/man/man1/atmo-farm.1."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.data_files"]["share/man/man1"] == str(PAGE.relative_to(ROOT))


@pytest.mark.parametrize("name", [*sorted(set(cli.commands) - {"dlq"}), "dlq show"])
def test_every_command_is_in_it(name: str) -> None:
    """With each of its options."""
    command: click.Command = cli
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    section = PAGE.read_text().split(f'.SS "{manual.escaped(f"atmo-farm {name} ")}')[1].split(".SS")[0]
    options = [
        option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts
    ]
    assert all(manual.escaped(option) in section for option in options)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".TH not a macro", "\\&.TH not a macro"),
        ("'no macro", "\\&'no macro"),
        ("C:\\x --y", "C:\\ex \\-\\-y"),
        ('say "hi"', "say \\(dqhi\\(dq"),
    ],
)
def test_texts_are_texts(text: str, shown: str) -> None:
    """Nothing in a help text is taken for a command of roff."""
    assert manual.escaped(text) == shown
