"""The crash ledger: what it counts, keeps and forgets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from atmo_farm.delivery.crashes import MOST, NAME, CrashLedger


def test_it_counts_by_handler_and_message(tmp_path: Path) -> None:
    """And a new one on the same folder goes on."""
    ledger = CrashLedger(tmp_path)
    assert [ledger.blame("a", 1), ledger.blame("a", 1), ledger.blame("a", 2**64 - 1), ledger.blame("b", 1)] == [
        1, 2, 1, 1
    ]  # fmt: skip
    again = CrashLedger(tmp_path)
    assert again.suspects("a") == {1: 2, 2**64 - 1: 1}
    assert again.suspects("c") == {}
    assert again.blame("a", 1) == 3


def test_it_is_bounded(tmp_path: Path) -> None:
    """The one that was suspected longest ago is forgotten first."""
    ledger = CrashLedger(tmp_path)
    for number in range(1, MOST + 1):
        ledger._deaths.setdefault("a", {})[number] = 1
    ledger.blame("a", 1)
    ledger.blame("a", MOST + 1)
    assert len(ledger.suspects("a")) == MOST
    assert ledger.suspects("a")[1] == 2 and 2 not in ledger.suspects("a")
    assert CrashLedger(tmp_path).suspects("a") == ledger.suspects("a")


def test_a_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line says so; it is known until the end."""
    (tmp_path / NAME).with_suffix(".new").mkdir()
    ledger = CrashLedger(tmp_path)
    with caplog.at_level(logging.ERROR):
        assert [ledger.blame("a", 1), ledger.blame("a", 1)] == [1, 2]
    assert "crash ledger not written" in caplog.text


def test_a_file_that_was_cut_off_while_it_was_written(tmp_path: Path) -> None:
    """The unfinished one is passed over."""
    CrashLedger(tmp_path).blame("a", 1)
    (tmp_path / NAME).with_suffix(".new").write_text('{"a": {"1"')
    assert CrashLedger(tmp_path).suspects("a") == {1: 1}
