"""The committed modules belong to the committed sources, shown by checksums alone: no compiler is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests import ROOT, Guest, manifest, sha256_of

SOURCES = ("*.c", "*.h", "*.ts", "*.rs", "*.go", "Cargo.lock", "go.mod", "package-lock.json")
NOT_A_MODULES_SOURCE = {
    "tests/guests/rust-suborbital/src/nothing.rs",
}
LARGEST_COMMITTED = 50_000


def _files(*patterns: str) -> Iterator[str]:
    for folder in ("tests/guests", "examples"):
        for pattern in patterns:
            yield from (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern))


@pytest.mark.parametrize("guest", manifest(), ids=lambda guest: f"{guest.language}/{guest.name}")
def test_sources_are_those_that_the_module_was_built_from(guest: Guest) -> None:
    """A changed source without a rebuilt module fails here; scripts/guests --update repairs it."""
    for path, expected in guest.sources.items():
        assert sha256_of(ROOT / path) == expected, f"{path} has changed: run scripts/guests --update"


@pytest.mark.parametrize(
    "guest", [guest for guest in manifest() if guest.module], ids=lambda guest: f"{guest.language}/{guest.name}"
)
def test_committed_module_is_the_one_of_the_manifest(guest: Guest) -> None:
    """Its checksum and size are the manifest's, it is a Wasm module, and it is small."""
    assert sha256_of(guest.path) == guest.sha256
    wasm = guest.wasm()
    assert len(wasm) == guest.size < LARGEST_COMMITTED
    assert wasm.startswith(b"\0asm\1\0\0\0")


def test_every_module_is_in_the_manifest() -> None:
    """No module of unknown origin lies about."""
    assert set(_files("*.wasm")) == {guest.module for guest in manifest() if guest.module}


def test_every_source_is_in_the_manifest() -> None:
    """No source is left that nothing is built from."""
    used = {path for guest in manifest() for path in guest.sources}
    assert set(_files(*SOURCES)) - used <= NOT_A_MODULES_SOURCE


def test_only_large_modules_are_built_on_demand() -> None:
    """What is small is committed, so that nothing but the large ones ever waits for a compiler."""
    assert all(guest.size >= LARGEST_COMMITTED for guest in manifest() if not guest.module)


def test_the_first_example_has_the_current_glue() -> None:
    """examples/hello can be copied as it is: its atmo.h is a copy, and an exact one."""
    original = ROOT / "examples/sdk/atmo.h"
    assert Path(ROOT / "examples/hello/greet/atmo.h").read_bytes() == original.read_bytes()
