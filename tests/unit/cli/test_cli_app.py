"""The root command: how what a verb raises becomes a line on standard error and an exit code."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from atmo_farm.cli.app import Root, cli
from atmo_farm.cli.session import debug_option
from atmo_farm.errors import AtmoFarmError, CannotStart, NotFound, Position, Problem, TimedOut, UserFilesError

VERBS = {"start", "check", "build", "invoke", "schema", "config", "version", "completion"} | {
    "status",
    "reload",
    "stop",
    "dlq",
    "install-service",
    "loglevel",
    "top",
}


def raising(error: BaseException, *args: str) -> Result:
    """The result of a verb that raises this."""

    @click.command()
    @debug_option
    def verb() -> None:
        raise error

    root = Root("atmo-farm")
    root.add_command(verb)
    return CliRunner().invoke(root, ["verb", *args])


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (CannotStart("the run folder is held by pid 7"), 3, "Error: the run folder is held by pid 7\n"),
        (NotFound("no such function"), 4, "Error: no such function\n"),
        (TimedOut("no answer in 5 s"), 5, "Error: no answer in 5 s\n"),
        (AtmoFarmError("odd"), 70, "Error: odd\n"),
        (ValueError("two\nlines"), 70, "Error: internal error: ValueError: two lines; --debug shows where\n"),
        (KeyError(), 70, "Error: internal error: KeyError; --debug shows where\n"),
        (click.UsageError("what?"), 2, "Usage: "),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (
            UserFilesError([Problem(Position("f", 1, 2), "a.b", "is wrong"), Problem(Position("f"), "", "is odd")]),
            1,
            "f:1:2: a.b: is wrong\nf: is odd\n",
        ),
    ],
)
def test_errors(error: BaseException, code: int, told: str) -> None:
    """One clear line on standard error, nothing on standard output, the code of spec 0, no stack trace."""
    result = raising(error)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(told) if told else not result.stderr.strip()
    assert "Traceback" not in result.stderr


def test_debug_shows_the_stack() -> None:
    """The trace comes before the line, which stays."""
    result = raising(CannotStart("held"), "--debug")
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("Error: held\n")


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a pipe; on a terminal unless NO_COLOR says no."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = CliRunner().invoke(cli, ["config"], color=True).stdout
    assert "\x1b[" in shown
    assert "\x1b[" not in CliRunner().invoke(cli, ["config"]).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in CliRunner().invoke(cli, ["config"], color=True).stdout


def test_every_verb_has_help_with_examples_and_exit_codes() -> None:
    """What a user can do, in what form, and what a script may rely on."""
    assert set(cli.commands) == VERBS
    verbs = [[name] for name in VERBS - {"dlq"}] + [["dlq", name] for name in ("list", "show", "replay", "purge")]
    for name, *more in verbs:
        result = CliRunner().invoke(cli, [name, *more, "--help"])
        assert result.exit_code == 0
        assert "--debug" in result.stdout or name == "completion"
        if name not in ("version", "schema", "completion"):
            assert "Exit codes:" in result.stdout
            assert "Examples:" in result.stdout
    top = CliRunner().invoke(cli, ["-h"]).stdout
    assert all(f"\n    {code:<3} " in top for code in (0, 1, 2, 3, 4, 5, 70))


@pytest.mark.parametrize(
    ("args", "meant"),
    [(["chekc"], "'check'"), (["check", "--jsn"], "'--json'"), (["start", "--log-levl", "info"], "'--log-level'")],
)
def test_suggestions(args: list[str], meant: str) -> None:
    """A misspelt verb or option names the one that was meant."""
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert f"Did you mean {meant}?" in result.stderr
