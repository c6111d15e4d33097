"""The test guests and the examples' modules: what there is, from `manifest.json`. Standard library only.

    guest("c", "hello").wasm()      the bytes of tests/guests/c/hello.wasm

`scripts/guests` builds the modules and writes the manifest. Those under 50 kB are committed; larger ones (Go) are
built on demand into the cache folder, under the SHA-256 that the manifest expects.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "tests/guests/manifest.json"


@dataclass(frozen=True)
class Guest:
    """One module and where it comes from; paths are relative to the repository's root."""

    name: str
    language: str
    """The folder under tests/guests, or `examples/<application>`."""
    interface: str
    """`runnable` or `wasi-command`."""
    module: str
    """Its file; empty for one that is built on demand."""
    size: int
    sha256: str
    tool: str
    command: str
    sources: Mapping[str, str]
    """path → SHA-256 of everything that the module is made of."""

    @property
    def path(self) -> Path:
        """The module's file, which exists only after `scripts/guests` when it is built on demand."""
        return ROOT / self.module if self.module else built_on_demand(self.sha256)

    def wasm(self) -> bytes:
        """The module's bytes."""
        return self.path.read_bytes()


@functools.cache
def manifest() -> tuple[Guest, ...]:
    """Every guest, in the manifest's order."""
    return tuple(Guest(**entry) for entry in json.loads(MANIFEST.read_text())["guests"])


def guest(language: str, name: str) -> Guest:
    """One of them; KeyError when there is none."""
    for candidate in manifest():
        if (candidate.language, candidate.name) == (language, name):
            return candidate
    raise KeyError(f"{language}/{name}")


def cache_folder() -> Path:
    """Where compilers and large modules live: $ATMO_FARM_CACHE, else ~/.cache/atmo-farm."""
    return Path(os.environ.get("ATMO_FARM_CACHE") or Path.home() / ".cache/atmo-farm")


def built_on_demand(sha256: str) -> Path:
    """The file of a module that is too large to commit."""
    return cache_folder() / "guests" / f"{sha256}.wasm"


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
