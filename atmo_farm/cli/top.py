"""`atmo-farm top`: what each handler does, again and again."""

from __future__ import annotations

import contextlib
import curses
import sys
import time
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

import click

from atmo_farm.cli.farm import farm_options, find
from atmo_farm.cli.session import exit_codes, verb_settings
from atmo_farm.cli.status import table
from atmo_farm.cli.top_view import COLUMNS, TEXTS, Row, cells, ordered, rows
from atmo_farm.cli.types import Seconds
from atmo_farm.errors import AtmoFarmError, TimedOut
from atmo_farm.ipc.control import ControlClient
from atmo_farm.log.lines import escape

Look = Mapping[str, Any]
"""A result of the verb."""

ASK_S = 5.0
"""How long the farm may take to pause or resume."""

NUMBERS = range(TEXTS, len(COLUMNS))
SORTS = {heading: key for key, (heading, _, _) in COLUMNS.items()}
TOGETHER = "\u00a0"
"""A blank at which no line is broken."""
KEYS = ("↑ ↓ handler", "← → columns", "p pause", "r resume", "q quit", "sort:")
HELP = "  ".join(
    text.replace(" ", TOGETHER) for text in (*KEYS, *(f"{key} {heading}" for key, (heading, _, _) in COLUMNS.items()))
)


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70)
    + """

\b
Examples:
  atmo-farm top
  atmo-farm top --sort "cpu %" --interval 5
  atmo-farm top --count 1 | cat""",
)
@click.option("--interval", type=Seconds(), default=1.0, show_default=True, metavar="S", help="Between two looks.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Print so many tables, and end: no screen.")
@click.option("--sort", type=click.Choice(list(SORTS)), default="msg/s", show_default=True, help="By which column.")
@farm_options
def top(interval: float, count: int | None, sort: str, **flags: Any) -> None:
    """Show what each handler of a running farm does, live.

    Rates are those since the last look. p50 and p99 are upper bounds of what attempts took, powers of two. On the
    screen: arrows choose a handler, or columns where the terminal is too narrow for all; p pauses the handler, r
    resumes it, q ends; the letters below the table sort.
    """
    interval = max(0.1, interval)
    if count is None and sys.stdout.isatty():
        with _screen() as window:
            Screen(window, flags, interval, SORTS[sort]).run()
        return
    looks = Looks(flags)
    before = looks.next()
    for number in range(count or 1):
        time.sleep(interval)
        now = looks.next()
        if number:
            click.echo()
        for line in [_head(now), *table(cells(ordered(rows(before, now), SORTS[sort])), NUMBERS)]:
            click.echo(line)
        before = now


class Looks:
    """A farm that is looked at again and again; a monitor that is replaced meanwhile is found again."""

    def __init__(self, flags: Mapping[str, Any]):
        self._flags = flags
        self._farm: ControlClient | None = None

    def next(self) -> Look:
        """AtmoFarmError when the farm does not answer; then it may be asked again."""
        return self.ask("top")

    def ask(self, verb: str, **args: Any) -> Look:
        """Any verb."""
        if self._farm is None:
            self._farm = find(**self._flags).connect()
        try:
            return self._farm.ask(verb, args, deadline=time.monotonic() + ASK_S)
        except TimedOut:
            self._farm.close()
            self._farm = None
            raise


@contextlib.contextmanager
def _screen() -> Iterator[curses.window]:
    """A terminal that is as it was when the block is left."""
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        with contextlib.suppress(curses.error):  # some cannot hide it
            curses.curs_set(0)
        yield window
    finally:
        window.keypad(False)
        curses.echo()
        curses.nocbreak()
        curses.endwin()


class Screen:
    """The table, and what keys do to it."""

    def __init__(self, window: curses.window, flags: Mapping[str, Any], interval: float, sort: str):
        self._window = window
        self._looks = Looks(flags)
        self._interval = interval
        self._sort = sort
        self._chosen = ""
        """A handler's name."""
        self._left = 1
        """The first column that is shown beside the handlers' names."""
        self._said = self._trouble = ""
        """About the last key; about the last look."""
        self._before = self._now = self._looks.next()

    def run(self) -> None:
        """Until `q`."""
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + self._interval
                self._look()
            found = ordered(rows(self._before, self._now), self._sort)
            self._draw(found)
            self._window.timeout(max(1, int((due - time.monotonic()) * 1000)))
            try:
                key = self._window.getch()
            except KeyboardInterrupt:
                return
            if key == ord("q"):
                return
            self._pressed(key, [row.name for row in found])

    def _look(self) -> None:
        try:
            now = self._looks.next()
        except AtmoFarmError as error:
            self._trouble = str(error)
            return
        self._trouble = ""
        self._before, self._now = self._now, now

    def _pressed(self, key: int, names: list[str]) -> None:
        at = names.index(self._chosen) if self._chosen in names else -1
        if key == curses.KEY_DOWN and names:
            self._chosen = names[min(at + 1, len(names) - 1)]
        elif key == curses.KEY_UP and names:
            self._chosen = names[max(at - 1, 0)]
        elif key in (curses.KEY_LEFT, curses.KEY_RIGHT):
            step = 1 if key == curses.KEY_RIGHT else -1
            self._left = min(max(1, self._left + step), len(COLUMNS) - 1)
        elif key in (ord("p"), ord("r")):
            self._ask("pause" if key == ord("p") else "resume")
        elif 0 < key < 128 and chr(key) in COLUMNS:
            self._sort = chr(key)

    def _ask(self, verb: str) -> None:
        if not self._chosen:
            self._said = "choose a handler first, with the arrows"
            return
        try:
            self._looks.ask(verb, handler=self._chosen)
            self._said = f"{verb}d {self._chosen}"
        except AtmoFarmError as error:
            self._said = str(error)

    def _draw(self, found: list[Row]) -> None:
        with contextlib.suppress(curses.error):  # a terminal that is too small, or has just become so
            self._write(found)

    def _write(self, found: list[Row]) -> None:
        window = self._window
        height, width = window.getmaxyx()
        window.erase()
        lines = [(_head(self._now), curses.A_BOLD), (self._trouble or self._said, curses.A_NORMAL)]
        while self._left > 1 and len(_from_column(self._left - 1, found)[0]) < width:
            self._left -= 1
        heading, *body = _from_column(self._left, found)
        lines.append((heading, curses.A_UNDERLINE))
        help_lines = [line.replace(TOGETHER, " ") for line in wrap(HELP, max(20, width - 1))]
        shown = max(1, height - 3 - len(help_lines))
        at = next((number for number, row in enumerate(found) if row.name == self._chosen), 0)
        first = max(0, min(at - shown // 2, len(body) - shown))
        for row, line in list(zip(found, body, strict=True))[first : first + shown]:
            lines.append((line, curses.A_REVERSE if row.name == self._chosen else curses.A_NORMAL))
        for y, (text, how) in enumerate(lines[: height - len(help_lines)]):
            window.addnstr(y, 0, escape(text), width - 1, how)
        for y, text in enumerate(help_lines, max(0, height - len(help_lines))):
            window.addnstr(y, 0, text, width - 1, curses.A_DIM)
        window.refresh()


def _from_column(left: int, found: list[Row]) -> list[str]:
    """The table's lines: the names, and the columns from this one on."""
    columns = [[row[0], *row[left:]] for row in cells(found)]
    return table(columns, range(max(1, TEXTS + 1 - left), len(COLUMNS) + 1 - left))


def _head(look: Look) -> str:
    farm = look["farm"]
    note = f"; {farm['note']}" if farm["note"] else ""
    return (
        f"{farm['app']} {farm['app_version']}: {farm['state']}, generation {farm['generation']}, "
        f"{farm['ready']} of {farm['wanted']} ready{note}"
    )
